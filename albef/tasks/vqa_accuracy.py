"""The official VQA accuracy: ten annotators, and answers that are normalized before comparison."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from albef.data.record import Record
from albef.preprocessing.answers import Answer
from albef.tasks.temperature import Numbers, log_probabilities

ENOUGH = 3
"""Number of annotators who must give an answer for it to score 1."""
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""  # Contractions of the official rules. A word that lacks one apostrophe is completed.
_CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word
    for word in _CONTRACTED.split()
    for index, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # an exception in the official rules


def normalised(answer: str) -> str:
    """Normalize punctuation, case, number words, articles and contractions by the official rules.

    Punctuation inside a word becomes a space, other punctuation is removed.
    """
    stripped = text = _spaced(answer)
    for mark in _MARKS:
        is_removed = f"{mark} " in text or f" {mark}" in text or _COMMA.search(text)
        stripped = stripped.replace(mark, "" if is_removed else " ")
    words = (_NUMBERS.get(word, word) for word in _DOT.sub("", stripped).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Return the accuracy of an answer, from 0 to 1.

    It is ``min(n / 3, 1)``, where n is the number of annotators who agree, as the mean over leaving
    each one out. If all annotators agree, the answer must equal theirs without normalization. The
    official data have ten.
    """
    votes = [_spaced(vote) for vote in annotators]
    candidate = _spaced(answer)
    if len(set(votes)) > 1:
        candidate, votes = normalised(answer), [normalised(vote) for vote in annotators]
    agree = votes.count(candidate)
    parts = (min((agree - (vote == candidate)) / ENOUGH, 1.0) for vote in votes)
    return sum(parts) / len(votes)


def judged(answer: str, truths: Sequence[str], annotators: Sequence[str] | None) -> float:
    """Return :func:`vqa_accuracy`; without annotators, 1 if a truth is the answer, normalized."""
    if annotators:
        return vqa_accuracy(answer, annotators)
    return float(normalised(answer) in map(normalised, truths))


def judged_answers(
    records: Sequence[Record], answers: Sequence[Sequence[Answer]]
) -> list[tuple[Numbers, float]]:
    """Return log probabilities of the answers to each question, and the score of the first.

    Questions whose answer is not known are left out.
    """
    return [
        (
            log_probabilities([answer.probability for answer in best]),
            judged(best[0].text, list(truths), record.meta.get("annotators")),
        )
        for record, best in zip(records, answers, strict=True)
        if (truths := record.meta.get("answers"))
    ]


def answer_scores(table: Mapping[str, Sequence[Any]]) -> list[float | None]:
    """Return the score of each row of predictions; None if no answer is known."""
    nothing = [None] * len(table["answer"])
    rows = zip(table["answer"], table["truths"], table.get("annotators", nothing), strict=True)
    return [judged(*row) if row[1] else None for row in rows]


def chance_scores(table: Mapping[str, Sequence[Any]]) -> list[float | None]:
    """Return the expected score of a uniform guess among the right answers to the same type."""
    nothing = [None] * len(table["answer"])
    columns = (table.get(name, nothing) for name in ("annotators", "type"))
    rows = [*zip(table["truths"], *columns, strict=True)]
    pools: dict[str | None, dict[str, None]] = {}
    for truths, _, group in rows:
        if truths:
            pools.setdefault(group, {})[normalised(truths[0])] = None
    scores: list[float | None] = []
    for truths, annotators, group in rows:
        if not truths:
            scores.append(None)
            continue
        right = {normalised(text) for text in (annotators or truths)} & pools[group].keys()
        # Sorted, because the order of a set, and so the sum's last digit, differs by process.
        scored = (judged(text, truths, annotators) for text in sorted(right))
        scores.append(sum(scored) / len(pools[group]))
    return scores


def _spaced(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
