"""What a validation found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """An expectation and how the data set met it."""

    what: str
    """What is expected, in words."""
    expectation: str
    """Its name in Great Expectations."""
    column: str
    """Table and column that it looks at."""
    passed: bool
    counted: int
    failed: int
    allowed: float
    """Share of rows that need not meet it."""
    bound: str
    """Of a row's value, as "at most 30"."""
    threshold: str
    """The key in params.yaml that sets share or bound, if one does."""
    sample: tuple[Mapping[str, Any], ...]
    """The first offending rows."""
    suite: str = "image_text"

    def sentence(self) -> str:
        """The outcome in words, with numbers and threshold."""
        if self.expectation.startswith("expect_table"):
            return f"there are {self.counted:,}"
        share = self.failed / self.counted if self.counted else 0.0
        allowed = f"at most {_percent(self.allowed)} may" if self.allowed else "none may"
        return f"{self.failed:,} of {self.counted:,} ({_percent(share)}) fail, {allowed}"

    def reason(self) -> str:
        """All of it: what, where, the numbers and the key that sets the threshold."""
        place = f"{self.expectation} of {self.column} {self.bound}".rstrip()
        key = f" (validate.{self.threshold})" if self.threshold else ""
        return f"{self.what} ({place}): {self.sentence()}{key}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class DriftResult:
    """How far a distribution is from a reference."""

    of: str
    """What is counted, as "words of a caption"."""
    part: str
    """The rows looked at: ``train`` or ``evaluation``."""
    reference: str
    """What it is compared with: ``accepted`` or ``evaluation``."""
    name: str
    """The data set whose evaluation splits these are; "" for its own."""
    measure: str
    """``divergence`` (nats) or ``shift`` (share of the reference's range)."""
    value: float
    """How far."""
    warn: float | None
    stop: float | None
    level: str
    """``met``, ``warned`` or ``stopped``."""

    def reason(self) -> str:
        """All of it: what moved, how far, from what, and the key that sets the limit."""
        word = "stop" if self.level == "stopped" else "warn"
        limit = self.stop if word == "stop" else self.warn
        unit = " nats" if self.measure == "divergence" else " of its range"
        whose = {
            "accepted": f"that of the accepted profile ({self.part} rows)",
            "evaluation": "that of the evaluation splits" + (self.name and f" of {self.name}"),
        }[self.reference]
        allowed = f", at most {limit:g} is allowed" if limit is not None else ""
        key = f"validate.drift.{self.reference}.{self.measure}.{word}"
        far = f"{self.measure} of {self.value:.3g}{unit}"
        return f"{self.of}: {far} from {whose}{allowed} ({key})"


@dataclass(frozen=True)
class Result:
    """The validation of a data set."""

    dataset: str
    digest: str
    checks: tuple[Check, ...]
    """Every expectation of its suites, in their order."""
    statistics: Mapping[str, Any]
    drift: tuple[DriftResult, ...] = ()
    accepted: str = ""
    """Digest of the data whose profile was accepted; "" where none is."""

    @property
    def passed(self) -> bool:
        """Whether every expectation is met, and nothing moved too far."""
        return not self.reasons()

    def reasons(self) -> list[str]:
        """Why it is refused, a sentence each."""
        failed = [check.reason() for check in self.checks if not check.passed]
        return failed + [drift.reason() for drift in self.drift if drift.level == "stopped"]

    def warnings(self) -> list[str]:
        """What does not stop it but should be known, a sentence each."""
        return [drift.reason() for drift in self.drift if drift.level == "warned"]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, without times or run ids."""
        return {
            "dataset": self.dataset,
            "digest": self.digest,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "statistics": dict(self.statistics),
            "accepted": self.accepted,
            "moved": [asdict(drift) for drift in self.drift],
        }


class NotFit(ValueError):
    """A data set failed its validation; the text names what failed and where to read more."""
