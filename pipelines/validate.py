"""validate@DATASET: let a data set pass to training, or stop the pipeline and say why."""

import logging

from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.drift import read_accepted, read_evaluated
from albef.validation.outcome import NotFit
from albef.validation.page import page
from pipelines.seen import pictures
from pipelines.stage import Stage, main, write_json

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Check a data set against its suites; its verdict is written only if it passes."""
    config = stage.section("validate", ValidateConfig)
    accepted = read_accepted(config.accepted.get(stage.key))
    evaluated = read_evaluated(config.evaluated_on.get(stage.key))
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


if __name__ == "__main__":
    main(run)
