"""The result of a validation as one page of HTML that needs nothing else."""

from collections.abc import Mapping
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from albef.validation.result import Result, of_dataset

_SUITES = {
    "image_text": "Every data set",
    "captions": "Captions",
    "questions": "Questions",
    "statements": "Statements",
    "comparisons": "Comparisons of two images",
    "expressions": "Expressions",
}
_REFERENCES = {
    "accepted": "from the accepted profile",
    "evaluation": "of the training split from the evaluation splits",
}


def render_page(result: Result) -> str:
    """``result`` as HTML; equal ones give equal pages."""
    environment = Environment(
        loader=PackageLoader("albef.validation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    drift = groupby(result.drift, key=lambda moved: (moved.reference, moved.name))
    return environment.get_template("page.html").render(
        result=result,
        verdict=_verdict(result),
        suites=[(_SUITES[k], list(g)) for k, g in groupby(result.checks, lambda c: c.suite)],
        numbers={name: _text(value) for name, value in result.statistics.items()},
        drift=[(_REFERENCES[key] + of_dataset(name), list(rows)) for (key, name), rows in drift],
    )


def _verdict(result: Result) -> str:
    failed = sum(not check.passed for check in result.checks)
    stopped = sum(drift.level == "stopped" for drift in result.drift)
    if result.passed:
        return f"All {len(result.checks)} expectations are met."
    unmet = f"{failed} of {len(result.checks)} expectations are not met" if failed else ""
    far = f"{stopped} of {len(result.drift)} distributions moved too far" if stopped else ""
    return f"{' and '.join(filter(None, (unmet, far)))}; nothing is trained on it."


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
