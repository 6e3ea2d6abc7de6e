"""Judgement of an export that running servers try out as a canary or a shadow."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from albef.config import ParamsError
from albef.release.gate import ReleaseConfig, Row

_PATIENCE_S = 30.0
_FAILURES = ("500", "504")  # Statuses that are the server's fault and not caused by load.
_SUMS = {
    "albef_requests_total": "requests",
    "albef_request_seconds_sum": "seconds",
    "albef_shadow_cosine_sum": "cosine",
    "albef_shadow_cosine_count": "vectors",
}
Counts = Counter[tuple[str, str, str]]
"""Sums by version, route and what they count."""


class Trial(NamedTuple):
    """Judgement of a trial."""

    rows: list[Row]
    digests: set[str]
    """SHA-256 of each export that is tried out."""
    early: list[str]
    """Reasons why it is too early to decide."""


def read_metrics(url: str) -> list[Sample]:
    """Return the metrics of a server, with the token in ``ALBEF_TOKEN`` if there is one."""
    token = os.environ.get("ALBEF_TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/metrics", headers=headers, timeout=_PATIENCE_S)
        if answer.is_error:
            text = "set ALBEF_TOKEN to a token with the scope `metrics`"
            raise ValueError(f"status {answer.status_code}; {text}")
        families = text_string_to_metric_families(answer.text)
        return [sample for family in families for sample in family.samples]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ParamsError(f"cannot read the metrics of {url}: {error}") from None


def judge_trial(config: ReleaseConfig, run: str, samples: Iterable[Sample]) -> Trial:
    """Compare the canary and the shadow of a run with the stable version, by metrics of servers."""
    counts: Counts = Counter()
    digests: dict[str, set[str]] = {}
    for name, labels, value, *_ in samples:
        version, route = labels.get("version", ""), labels.get("route", "")
        if what := _SUMS.get(name) or (name == "albef_shadow_answers_total" and labels["outcome"]):
            counts[version, route, what] += value  # type: ignore[assignment]
            if labels.get("status") in _FAILURES:
                counts[version, route, "failed"] += value  # type: ignore[assignment]
        elif name == "albef_model_info" and version != "stable" and labels["run"] == run:
            digests.setdefault(version, set()).add(labels["digest"])
    if not digests:
        raise ParamsError(f"the servers try out no export of {run}; see `albef serve --canary`")
    rows = [row for version in sorted(digests) for row in _rows(config, version, counts)]
    early, least = [], config.min_trial_requests
    for version in sorted(digests):
        answered = sum(
            n for (of, _, what), n in counts.items() if (of, what) == (version, "requests")
        )
        if answered < least:
            text = f"{answered:.0f} of {least} requests (release.min_trial_requests)"
            early.append(f"{version} has answered {text}")
    return Trial(rows, set().union(*digests.values()), early)


def _rows(config: ReleaseConfig, version: str, counts: Counts) -> Iterator[Row]:
    routes = [route for of, route, what in counts if (of, what) == (version, "requests")]

    def total(of: str, what: str) -> float:
        return sum(counts[of, route, what] for route in routes)

    old, new = total("stable", "requests"), total(version, "requests")
    least = f"{config.min_trial_requests} at least"
    yield Row("requests", version, f"{old:.0f}", f"{new:.0f}", "", least)
    was, now = total("stable", "failed") / (old or 1), total(version, "failed") / (new or 1)
    cap, refused = config.max_trial_failures, ""
    if now - was > cap:
        refused = (
            f"{version}: {now:.2%} of the requests fail, {was:.2%} of the stable version's; the "
            f"difference is more than release.max_trial_failures {cap:g}"
        )
    yield Row("failed", version, f"{was:.2%}", f"{now:.2%}", "", f"+{cap:.2%}", refused)
    if version == "canary" and (slower := _slower(counts, routes)):
        cap, refused = config.max_slower, ""
        if slower > cap:
            refused = f"canary: requests take {slower:.2f} times as long, more than "
            refused += f"release.max_slower {cap:g}"
        yield Row("time", version, "", "", f"x {slower:.2f}", f"x {cap:g}", refused)
    if answers := total(version, "equal") + total(version, "different"):
        share, floor, refused = total(version, "equal") / answers, config.min_equal_answers, ""
        if share < floor:
            refused = f"{version}: {share:.2%} of {answers:.0f} best answers are equal, less than "
            refused += f"release.min_equal_answers {floor:g}"
        yield Row("equal answers", version, "", f"{share:.2%}", "", f"{floor:.2%}", refused)
    if vectors := total(version, "vectors"):
        yield Row("cosine of vectors", version, "", f"{total(version, 'cosine') / vectors:.4f}")


def _slower(counts: Counts, routes: Iterable[str]) -> float:
    """Return the time of the canary's requests, as a multiple of the stable version's; or 0.

    Each route counts as often as the canary answered it, because calls take different times.
    """
    time = expected = 0.0
    for route in routes:
        if stable := counts["stable", route, "requests"]:
            mean = counts["stable", route, "seconds"] / stable
            expected += mean * counts["canary", route, "requests"]
            time += counts["canary", route, "seconds"]
    return time / expected if expected else 0.0
