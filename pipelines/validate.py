"""validate@DATASET: let a data set pass to training, or stop the pipeline and say why."""

import logging
from collections.abc import Mapping
from pathlib import Path

from albef.config import ParamsError
from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.drift import read_accepted, read_evaluated
from albef.validation.outcome import NotFit
from albef.validation.page import page
from pipelines.seen import pictures
from pipelines.stage import PARAMS, Stage, main, write_json

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Check a data set against its suites; its verdict is written only if it passes."""
    config = stage.section("validate", ValidateConfig)
    accepted = read_accepted(_named(stage, "accepted"))
    evaluated = read_evaluated(_named(stage, "evaluated_on"))
    verdict = stage.layout.verdict(stage.key)
    verdict.unlink(missing_ok=True)  # an earlier one says nothing about this data
    result, profile = check_dataset(
        stage.layout.data(stage.key), config, pictures(stage), accepted, evaluated
    )
    folder = stage.layout.validation(stage.key)
    write_json(folder / "result.json", result.to_json())
    write_json(folder / "profile.json", profile)
    report = folder / "report.html"
    report.write_text(page(result, profile))
    for warning in result.warnings():
        log.warning("%s", warning)
    if reasons := result.reasons():
        raise NotFit(f"data set {stage.key} is refused: {'; '.join(reasons)}; see {report}")
    write_json(verdict, {"dataset": result.dataset, "digest": result.digest})
    stage.made(verdict, folder / "result.json", folder / "profile.json")
    log.info("all %d expectations are met; see %s", len(result.checks), report)


def _named(stage: Stage, key: str) -> Path:
    """The accepted profile that a key of the data set names."""
    datasets = stage.params.get("datasets")
    section = datasets.get(stage.key) if isinstance(datasets, Mapping) else None
    named = section.get(key) if isinstance(section, Mapping) else None
    if not isinstance(named, str):
        raise ParamsError(
            f"{PARAMS}: datasets.{stage.key}.{key} must name a file; profiles/none.json "
            "expects nothing"
        )
    return Path(named)


if __name__ == "__main__":
    main(run)
