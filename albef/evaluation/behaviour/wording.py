"""Changing the words of a caption. Case does not count: models read small letters."""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache

_END = re.compile(r"[\s.!]+$")


def swapped(text: str, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The text in which the phrases of each pair take each other's place; nothing without any."""
    changes = {a.lower(): b for a, b in pairs} | {b.lower(): a for a, b in pairs}
    yield from _replaced(text, changes)


def reworded(
    text: str, groups: Sequence[Sequence[str]], common: Collection[str] = ()
) -> Iterator[str]:
    """Every text in which one phrase is replaced by another that means the same.

    Args:
        groups: phrases that mean the same; those with {a} and {b} are whole wordings.
        common: words that end nothing which could stand for {a} or {b}.
    """
    for group in groups:
        for wording in group:
            others = [phrase for phrase in group if phrase != wording]
            if "{" in wording:
                if (parts := _parts(text, wording, common)) is not None:
                    yield from (phrase.format(**parts) for phrase in others)
            else:
                for other in others:
                    yield from _replaced(text, {wording.lower(): other})


def miscounted(text: str, numbers: Sequence[str], used: Collection[str]) -> Iterator[str]:
    """Every text with one count too high by one, or too low where none of ``used`` is higher."""
    indices = {word.lower(): index for index, word in enumerate(numbers)}
    for match in _pattern(tuple(numbers)).finditer(text):
        index = indices[match["phrase"].lower()]
        nearby = [n for n in (index + 1, index - 1) if 0 <= n < len(numbers) and numbers[n] in used]
        if nearby:
            start, end = match.span("phrase")
            yield f"{text[:start]}{numbers[nearby[0]]}{text[end:]}"


def words_in(text: str, words: Collection[str]) -> frozenset[str]:
    """Those of ``words`` (small letters) that a text has."""
    return frozenset(re.findall(r"\w+", text.lower())) & frozenset(words)


def topics(text: str, common: Collection[str]) -> frozenset[str]:
    """The words of a text that tell what it is about, cut so that apple and apples are one."""
    return frozenset(
        word.rstrip("s")[:4] for word in re.findall(r"\w+", text.lower()) if word not in common
    )


def _replaced(text: str, changes: dict[str, str]) -> Iterator[str]:
    result, count = _pattern(tuple(changes)).subn(lambda match: _agreeing(match, changes), text)
    if count:
        yield result


@cache
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the phrases as whole words, the longest first, with an article before it."""
    words = "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?P<article>an? )?(?P<phrase>{words})(?!\w)", re.IGNORECASE)


def _agreeing(match: re.Match[str], changes: dict[str, str]) -> str:
    """What takes the place of a phrase, with the article that it asks for."""
    phrase = changes[match["phrase"].lower()]
    if not match["article"]:
        return phrase
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def _parts(text: str, wording: str, common: Collection[str]) -> dict[str, str] | None:
    """What stands in the open places of a wording; None where the text is not worded so, or where
    it could be read in two ways."""
    readings = []
    for gap in (".+?", ".+"):
        pattern = re.sub(r"\\\{(\w)\\\}", rf"(?P<\1>{gap})", re.escape(wording))
        match = re.fullmatch(pattern, _END.sub("", text), re.IGNORECASE)
        readings.append(match.groupdict() if match else None)
    parts = readings[0] if readings[0] == readings[1] else None
    last_words = [(part.split() or [""])[-1].lower() for part in (parts or {}).values()]
    return None if any(not word or word in common for word in last_words) else parts
