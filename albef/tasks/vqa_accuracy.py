"""The official VQA accuracy: ten annotators, and answers made alike before they are compared."""

import re
from collections.abc import Sequence

ENOUGH = 3
"""Annotators who must agree with an answer for it to be all right."""
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
"""  # that the rules know; a word that lacks one of the apostrophes becomes the whole
_CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word
    for word in _CONTRACTED.split()
    for index, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the rules themselves have it so


def normalised(answer: str) -> str:
    """An answer as the rules compare it.

    Punctuation goes, or becomes a space inside a word; small letters; number words become digits;
    articles go; contractions get their apostrophe back.
    """
    stripped = text = _spaced(answer)
    for mark in _MARKS:
        is_removed = f"{mark} " in text or f" {mark}" in text or _COMMA.search(text)
        stripped = stripped.replace(mark, "" if is_removed else " ")
    words = (_NUMBERS.get(word, word) for word in _DOT.sub("", stripped).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """From 0 to 1: ``min(n / 3, 1)``, n being the annotators who agree, on average over leaving
    each of them out.

    Where all annotators say the same, letter by letter, the answer has to say just that: the
    rules normalise only where they differ.

    Args:
        answer: of the model.
        annotators: their answers, ten in the official data.
    """
    votes = [_spaced(vote) for vote in annotators]
    candidate = _spaced(answer)
    if len(set(votes)) > 1:
        candidate, votes = normalised(answer), [normalised(vote) for vote in annotators]
    agree = votes.count(candidate)
    parts = (min((agree - (vote == candidate)) / ENOUGH, 1.0) for vote in votes)
    return sum(parts) / len(votes)


def judged(answer: str, truths: Sequence[str], annotators: Sequence[str] | None) -> float:
    """How right an answer is, from 0 to 1: :func:`vqa_accuracy` where annotators are known, else
    whether it equals one of the truths after normalisation."""
    if annotators:
        return vqa_accuracy(answer, annotators)
    return float(normalised(answer) in map(normalised, truths))


def _spaced(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
