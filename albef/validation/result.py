"""Results of a validation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """An expectation and its outcome for the dataset."""

    what: str
    """Description of the expectation."""
    expectation: str
    """Its name in Great Expectations."""
    column: str
    """Table and column that it checks."""
    passed: bool
    counted: int
    failed: int
    allowed: float
    """Share of rows that may fail it."""
    bound: str
    """Bound on a row's value, as "at most 30"."""
    threshold: str
    """Key in params.yaml that sets the share or the bound; "" if none does."""
    sample: tuple[Mapping[str, Any], ...]
    """First failing rows."""
    suite: str = "image_text"

    def outcome(self) -> str:
        """Describe the outcome in words, with numbers and threshold."""
        if self.expectation.startswith("expect_table"):
            return f"the dataset has {self.counted:,}"
        share = self.failed / self.counted if self.counted else 0.0
        allowed = f"at most {_percent(self.allowed)} may" if self.allowed else "none may"
        return f"{self.failed:,} of {self.counted:,} ({_percent(share)}) fail, {allowed}"

    def reason(self) -> str:
        """Describe the check in full: expectation, column, numbers and the key of the threshold."""
        place = f"{self.expectation} of {self.column} {self.bound}".rstrip()
        key = f" (validate.{self.threshold})" if self.threshold else ""
        return f"{self.what} ({place}): {self.outcome()}{key}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class DriftResult:
    """Distance of a distribution from a reference."""

    of: str
    """Measured quantity, as "words of a caption"."""
    part: str
    """Rows that are measured: ``train`` or ``evaluation``."""
    reference: str
    """Kind of reference: ``accepted`` or ``evaluation``."""
    measure: str
    """``divergence`` (nats) or ``shift`` (share of the reference's range)."""
    value: float
    """The distance."""
    warn: float | None
    stop: float | None
    level: str
    """``met``, ``warned`` or ``stopped``."""

    def reason(self) -> str:
        """Describe the drift in full: quantity, distance, reference and the key of the limit."""
        word = "stop" if self.level == "stopped" else "warn"
        limit = self.stop if word == "stop" else self.warn
        unit = " nats" if self.measure == "divergence" else " of its range"
        whose = {
            "accepted": f"that of the accepted profile ({self.part} rows)",
            "evaluation": "that of the evaluation splits",
        }[self.reference]
        allowed = f", at most {limit:g} is allowed" if limit is not None else ""
        key = f"validate.drift.{self.reference}.{self.measure}.{word}"
        far = f"{self.measure} of {self.value:.3g}{unit}"
        return f"{self.of}: {far} from {whose}{allowed} ({key})"


@dataclass(frozen=True)
class Result:
    """The validation of a dataset."""

    dataset: str
    digest: str
    checks: tuple[Check, ...]
    """Every expectation of its suites, in their order."""
    statistics: Mapping[str, Any]
    drift: tuple[DriftResult, ...] = ()
    accepted: str = ""
    """Digest of the data whose profile was accepted; "" if there is none."""

    @property
    def passed(self) -> bool:
        """Return whether every expectation is met and no distribution moved too far."""
        return not self.reasons()

    def reasons(self) -> list[str]:
        """Return the reasons for refusing the dataset, one message each."""
        failed = [check.reason() for check in self.checks if not check.passed]
        return failed + [drift.reason() for drift in self.drift if drift.level == "stopped"]

    def warnings(self) -> list[str]:
        """Return the warnings that do not refuse the dataset, one message each."""
        return [drift.reason() for drift in self.drift if drift.level == "warned"]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, without times or run ids."""
        return {
            "dataset": self.dataset,
            "digest": self.digest,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "statistics": dict(self.statistics),
            "accepted": self.accepted,
            "moved": [asdict(drift) for drift in self.drift],
        }


class ValidationFailedError(ValueError):
    """Failed validation of a dataset; the message names the failures and where to read more."""
