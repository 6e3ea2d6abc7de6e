"""Changes to the words of a caption. Case is ignored: models read lower-case text."""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache

_END = re.compile(r"[\s.!]+$")


def swapped(text: str, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the text with the phrases of each pair exchanged; nothing if it has none of them."""
    changes = {a.lower(): b for a, b in pairs} | {b.lower(): a for a, b in pairs}
    yield from _replaced(text, changes)


def reworded(
    text: str, groups: Sequence[Sequence[str]], common: Collection[str] = ()
) -> Iterator[str]:
    """Yield every text in which a phrase with the same meaning, of a group, replaces another.

    Phrases with {a} and {b} are whole wordings; no word of ``common`` can end the text for these.
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


def parts_of(text: str, wordings: Sequence[str], common: Collection[str]) -> Iterator[str]:
    """Yield the parts of the first of ``wordings`` that a text has; see :func:`reworded`."""
    for wording in wordings:
        if (parts := _parts(text, wording, common)) is not None:
            yield from parts.values()
            return


def miscounted(text: str, numbers: Sequence[str], used: Collection[str]) -> Iterator[str]:
    """Yield every text with one count too high by one, or too low if ``used`` has none higher."""
    indices = {word.lower(): index for index, word in enumerate(numbers)}
    for match in _pattern(tuple(numbers)).finditer(text):
        index = indices[match["phrase"].lower()]
        nearby = [n for n in (index + 1, index - 1) if 0 <= n < len(numbers) and numbers[n] in used]
        if nearby:
            start, end = match.span("phrase")
            yield f"{text[:start]}{numbers[nearby[0]]}{text[end:]}"


def words_in(text: str, words: Collection[str]) -> frozenset[str]:
    """Return those of ``words`` (lower case) that a text has."""
    return frozenset(re.findall(r"\w+", text.lower())) & frozenset(words)


def topics(text: str, common: Collection[str]) -> frozenset[str]:
    """Return the topic words of a text, cut so that apple and apples are equal."""
    return frozenset(
        word.rstrip("s")[:4] for word in re.findall(r"\w+", text.lower()) if word not in common
    )


def _replaced(text: str, changes: dict[str, str]) -> Iterator[str]:
    result, count = _pattern(tuple(changes)).subn(lambda match: _agreeing(match, changes), text)
    if count:
        yield result


@cache
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Match any of the phrases as whole words, the longest first, with an article before it."""
    words = "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?P<article>an? )?(?P<phrase>{words})(?!\w)", re.IGNORECASE)


def _agreeing(match: re.Match[str], changes: dict[str, str]) -> str:
    """Return the replacement of a phrase, with the matching article."""
    phrase = changes[match["phrase"].lower()]
    if not match["article"]:
        return phrase
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def _parts(text: str, wording: str, common: Collection[str]) -> dict[str, str] | None:
    """Return the parts of a wording's placeholders; None if the text does not match in one way."""
    readings = []
    for gap in (".+?", ".+"):
        pattern = re.sub(r"\\\{(\w)\\\}", rf"(?P<\1>{gap})", re.escape(wording))
        match = re.fullmatch(pattern, _END.sub("", text), re.IGNORECASE)
        readings.append(match.groupdict() if match else None)
    parts = readings[0] if readings[0] == readings[1] else None
    last_words = [(part.split() or [""])[-1].lower() for part in (parts or {}).values()]
    return None if any(not word or word in common for word in last_words) else parts
