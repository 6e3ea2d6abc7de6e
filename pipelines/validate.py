"""validate@DATASET: pass a dataset to training, or stop the pipeline and report why."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from albef.data import image_decoding
from albef.data.shards import describe
from albef.io import atomic, file_digest
from albef.validation import image_stats as stats
from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.drift import read_accepted
from albef.validation.result import ValidationFailedError
from pipelines.stage import Stage, main, write_json

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Validate a dataset; write its verdict only if it passes."""
    config = stage.section("validate", ValidateConfig)
    accepted = read_accepted(config.accepted.get(stage.key))
    verdict = stage.layout.verdict(stage.key)
    verdict.unlink(missing_ok=True)  # an earlier verdict does not apply to this data
    data = stage.layout.data(stage.key)
    result, profile = check_dataset(data, config, image_stats(stage), accepted)
    folder = stage.layout.validation(stage.key)
    write_json(folder / "result.json", result.to_json())
    write_json(folder / "profile.json", profile)
    for warning in result.warnings():
        log.warning("%s", warning)
    if reasons := result.reasons():
        raise ValidationFailedError(
            f"dataset {stage.key} fails validation: {'; '.join(reasons)}; "
            f"see the rows with `albef data page {stage.key}`"
        )
    write_json(verdict, {"dataset": result.dataset, "digest": result.digest})
    stage.made(verdict, folder / "result.json", folder / "profile.json")
    if stage.key not in config.accepted:
        log.info(
            "later versions of %s are not compared with this one; "
            "run `albef data accept %s` to limit their drift",
            stage.key,
            stage.key,
        )
    log.info("all %d expectations are met", len(result.checks))


def image_stats(stage: Stage) -> NDArray[np.float64]:
    """Return the image statistics of the dataset of this stage.

    They take most of the time of a validation, so they are cached in scratch. A new threshold or a
    newly accepted profile therefore decodes no image.

    Raises:
        ShardError: a part of the dataset is missing or damaged.
    """
    folder = stage.layout.data(stage.key)
    code = [file_digest(Path(str(module.__file__))) for module in (stats, image_decoding)]
    fingerprint = hashlib.sha256(" ".join([describe(folder)["digest"], *code]).encode())
    with stage.scratch(fingerprint.hexdigest()) as scratch:
        path = scratch / "image_stats.npy"
        if not path.exists():
            with atomic(path) as part, part.open("wb") as file:
                values = stats.read_image_stats(folder, stage.runtime.threads)
                np.save(file, values, allow_pickle=False)
        statistics: NDArray[np.float64] = np.load(path, allow_pickle=False)
    return statistics


if __name__ == "__main__":
    main(run)
