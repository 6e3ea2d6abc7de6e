"""The result of a validation as one page of HTML that needs nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

from albef.validation import content
from albef.validation.bars import bars
from albef.validation.outcome import Check, Result, of_dataset

SUITES = {
    "image_text": "Every data set",
    "captions": "Captions",
    "questions": "Questions",
    "statements": "Statements",
    "comparisons": "Comparisons of two images",
    "expressions": "Expressions",
}
"""Titles of the suites."""
REFERENCES = {
    "accepted": "From the accepted profile",
    "evaluation": "Of the training split from the evaluation splits",
}
"""What drift is told from."""


def page(result: Result, profile: Mapping[str, Any]) -> str:
    """``result`` and the data set's profile as HTML; equal ones give equal pages."""
    reasons = result.reasons()
    title = f"Data set {escape(result.dataset)}: {'refused' if reasons else 'fit to train on'}"
    style = resources.files("albef.validation").joinpath("page.css").read_text()
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="verdict {_class(not reasons)}">{_verdict(result)}</p>',
        *_told("fail", [moved.reason() for moved in result.moved if moved.level == "stopped"]),
        *_told("warn", result.warnings()),
        f'<p class="quiet">Digest of the data: <code>{escape(result.digest)}</code></p>',
        *_expectations(result),
        "<h2>The data set in numbers</h2>",
        _table(("", ""), ([escape(k), escape(_text(v))] for k, v in result.statistics.items())),
        *_profile(profile),
        *_drift(result),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _told(look: str, sentences: Iterable[str]) -> Iterator[str]:
    return (f'<p class="verdict told {look}">{escape(sentence)}</p>' for sentence in sentences)


def _verdict(result: Result) -> str:
    failed = sum(not check.passed for check in result.checks)
    stopped = sum(moved.level == "stopped" for moved in result.moved)
    if not failed and not stopped:
        return f"All {len(result.checks)} expectations are met."
    said = f"{failed} of {len(result.checks)} expectations are not met" if failed else ""
    drifted = f"{stopped} of {len(result.moved)} distributions moved too far" if stopped else ""
    return f"{' and '.join(filter(None, (said, drifted)))}; nothing is trained on it."


def _class(passed: bool) -> str:
    return "pass" if passed else "fail"


def _expectations(result: Result) -> Iterator[str]:
    yield "<h2>Expectations</h2>"
    for suite, own in groupby(result.checks, key=lambda check: check.suite):
        yield f"<h3>{escape(SUITES.get(suite, suite))}</h3>"
        yield _table(("", "Expected", "Found", "Set by"), map(_row, own))
    for check in result.checks:
        if check.sample and not check.passed:
            columns = list(check.sample[0])
            rows = ([_cell(row[name]) for name in columns] for row in check.sample)
            yield f"<h2>Not met: {escape(check.what)}</h2>"
            yield f"<p>{escape(_more(check))}</p>"
            yield _table(columns, rows)


def _more(check: Check) -> str:
    if check.failed > len(check.sample):
        return f"The first of {check.failed:,} offending rows:"
    return "The offending rows:"


def _row(check: Check) -> list[str]:
    found = escape(check.sentence())
    place = f'<span class="quiet"><code>{escape(check.place())}</code></span>'
    mark = f'<span class="{_class(check.passed)}">{"met" if check.passed else "not met"}</span>'
    key = f"<code>validate.{escape(check.threshold)}</code>" if check.threshold else ""
    return [mark, f"{escape(check.what)}<br>{place}", found, key]


def _profile(profile: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Profile</h2>"
    keys = (
        f'<span><span class="key part{i}"></span>{escape(part)}, {own["records"]:,} records</span>'
        for i, (part, own) in enumerate(content.parts(profile))
    )
    yield f'<p class="legend">{" ".join(keys)}</p>'
    yield '<div class="charts">'
    for histogram in content.histograms(profile):
        middle = ", ".join(f"{value:.4g}" for value in histogram.middle.values())
        yield (
            f"<figure><figcaption>{escape(histogram.what)} "
            f'<span class="quiet">median {middle}</span></figcaption>{bars(histogram)}</figure>'
        )
    yield "</div>"
    for listed in content.listed(profile):
        counts = ", ".join(f"{count:,} in {part}" for part, count in listed.different.items())
        yield f"<h3>{escape(listed.what.capitalize())}: {escape(counts)}</h3>"
        names = next(iter(listed.shares.values()))
        rows = (
            [_cell(name), *(f"{100 * own[name]:.2f} %" for own in listed.shares.values())]
            for name in names
        )
        yield (
            "<details><summary>The most frequent</summary>"
            + _table(("", *listed.shares), rows)
            + "</details>"
        )


def _drift(result: Result) -> Iterator[str]:
    rows = content.drifted(result.to_json())
    for (reference, name), own in groupby(rows, key=lambda row: (row.reference, row.name)):
        title = REFERENCES[reference] + of_dataset(name)
        yield f"<h2>Drift: {escape(title[0].lower() + title[1:])}</h2>"
        if reference == "accepted":
            yield f'<p class="quiet">Accepted: <code>{escape(result.accepted)}</code></p>'
        yield _table(
            ("", "Distribution", "Rows", "Divergence", "Shift"),
            (
                [
                    f'<span class="{_LEVELS[row.level]}">{row.level}</span>',
                    escape(row.of),
                    escape(row.part),
                    row.divergence,
                    row.shift,
                ]
                for row in own
            ),
        )


_LEVELS = {"met": "pass", "warned": "warn", "stopped": "fail"}


def _cell(value: object) -> str:
    return escape(_text(value)) or '<span class="quiet">(empty)</span>'


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    titles = list(head)
    wide = ' class="wide"' if len(titles) > 3 else ""
    lines = [f'<div class="scroll"><table{wide}>']
    if any(titles):
        lines.append("<tr>" + "".join(f"<th>{escape(t)}</th>" for t in titles) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table></div>"])
