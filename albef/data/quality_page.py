"""The result of a validation as one page of HTML that needs nothing else."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from albef.data.quality import Check, Result

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d8dee4;
  vertical-align: top; overflow-wrap: anywhere; }
.verdict { padding: .8rem 1rem; border-radius: .4rem; font-weight: 600; }
.pass { background: #e3f4e6; color: #14532d; } .fail { background: #fde5e3; color: #7f1d1d; }
span.pass, span.fail { padding: .1rem .4rem; border-radius: .3rem; white-space: nowrap; }
code { font-size: .9em; } .quiet { color: #57646f; font-size: .85rem; }
"""


def page(result: Result) -> str:
    """``result`` as HTML; equal results give equal pages."""
    failed = [check for check in result.checks if not check.passed]
    title = f"Data set {escape(result.dataset)}: {'refused' if failed else 'fit to train on'}"
    verdict = (
        f"{len(failed)} of {len(result.checks)} expectations are not met; nothing is trained on it."
        if failed
        else f"All {len(result.checks)} expectations are met."
    )
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="verdict {_class(not failed)}">{verdict}</p>',
        f'<p class="quiet">Digest of the data: <code>{escape(result.digest)}</code></p>',
        "<h2>Expectations</h2>",
        _table(("", "Expected", "Found", "Set by"), map(_row, result.checks)),
    ]
    for check in failed:
        if check.sample:
            columns = list(check.sample[0])
            parts += [
                f"<h2>Not met: {escape(check.what)}</h2>",
                f"<p>{escape(_more(check))}</p>",
                _table(columns, ([_cell(row[name]) for name in columns] for row in check.sample)),
            ]
    parts += [
        "<h2>The data set in numbers</h2>",
        _table(("", ""), ([escape(k), escape(_text(v))] for k, v in result.statistics.items())),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _class(passed: bool) -> str:
    return "pass" if passed else "fail"


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
    lines = ["<table>"]
    if any(titles):
        lines.append("<tr>" + "".join(f"<th>{escape(t)}</th>" for t in titles) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])
