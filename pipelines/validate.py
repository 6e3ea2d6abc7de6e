"""validate@DATASET: let a data set pass to training, or stop the pipeline and say why."""

import logging

from albef.data.quality import NotFit, ValidateConfig, check_dataset
from albef.data.quality_page import page
from pipelines.stage import Stage, main, write_json

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Check a data set against the suite; its verdict is written only if it passes."""
    config = stage.section("validate", ValidateConfig)
    verdict = stage.layout.verdict(stage.key)
    verdict.unlink(missing_ok=True)  # an earlier one says nothing about this data
    result = check_dataset(stage.layout.data(stage.key), config, stage.runtime.threads)
    folder = stage.layout.validation(stage.key)
    write_json(folder / "result.json", result.to_json())
    report = folder / "report.html"
    report.write_text(page(result))
    failed = [check for check in result.checks if not check.passed]
    if failed:
        reasons = "; ".join(
            f"{check.what} ({check.place()}): {check.sentence()}"
            + (f" (validate.{check.threshold})" if check.threshold else "")
            for check in failed
        )
        raise NotFit(f"data set {stage.key} is refused: {reasons}; see {report}")
    write_json(verdict, {"dataset": result.dataset, "digest": result.digest})
    stage.made(verdict, folder / "result.json")
    log.info("all %d expectations are met; see %s", len(result.checks), report)


if __name__ == "__main__":
    main(run)
