"""Comparison of a run's export with the released one, started by `albef release`.

``python -m pipelines.judge FACTS OUT``: FACTS is a JSON file with the argument of :func:`compare`.
The result is written to OUT, which is not an artifact.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnxruntime as ort

from albef.data.shards import Shards, describe
from albef.evaluation.behaviour.judging import prepare
from albef.io import printable_output
from albef.loading.reading import Part
from albef.metrics.family import family_of
from albef.models.weights import load_checkpoint
from albef.release.gate import ReleaseConfig, contaminated, judge
from albef.release.measuring import Tested, measure
from albef.report import card as model_card
from albef.report.card import training_facts
from albef.run_record import machine
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.tasks.task import RunTask
from pipelines.evaluate import EvaluateConfig, splits_of
from pipelines.export import RunExport
from pipelines.stage import Stage, read_json, run_of, write_json

log = logging.getLogger("albef")


def compare(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Measure an export, together with the released one if there is one, and judge it.

    Args:
        facts: ``run``; the folder ``fetched`` with the export as users get it; the folder
            ``released`` with the version that it ``replaces``, or None; ``version`` and
            ``stage``; a message on the ``limits``; further ``provenance``.

    Returns:
        ``rows`` of the comparison, ``reasons`` against the release, ``note``, ``figures``, the
        ``limits`` that were applied, ``provenance``, and ``card``.

    Raises:
        ValueError: the export is missing, or not of the model that was evaluated.
    """
    stage = Stage("compare", facts["run"])
    gate = stage.section("release", ReleaseConfig)
    spec = stage.section(f"export.runs.{stage.key}", RunExport)
    folder = stage.layout.export(stage.key)
    task = _restore(stage)
    split = Shards(stage.layout.data(spec.dataset), spec.split)
    records = Part(split, 0, spec.examples)
    previous, note = _previous(manifest.read(folder).model.kind, facts)
    failures = list(_differences(folder, Path(facts["fetched"])))
    log.info("measuring on %d records of %s in %s", len(records), spec.split, spec.dataset)
    behaviour = _prepare_behaviour(stage, task.config.dataset, type(task))
    new, *others = measure([folder, *previous], task, records, stage.runtime.threads, behaviour)
    rows = list(judge(gate, task.primary, new, others[0] if others else {}))
    card = model_card.read(stage.params, stage.layout, stage.key)
    assert card is not None  # Its metrics, checkpoint and export have already been read.
    shared = {data.name: data.shared for data in card.datasets if data.shared is not None}
    rows.append(contaminated(gate, len(split), shared))
    shown, note = [row[:6] for row in rows], f"{note} {facts['limits']}".rstrip()
    provenance = facts["provenance"] | _provenance(folder, split)
    chance = family_of(type(task)).chance(new.table)
    evaluation = replace(
        card.evaluation, new=new, primary=task.primary, chance=chance, machine=machine()
    )
    about = {"version": facts["version"], "note": note, "rows": shown, "provenance": provenance}
    card = replace(card, evaluation=evaluation, **about)
    released = {name: asdict(old) for name, old in others[0].items()} if others else None
    return {
        "rows": shown,
        "reasons": [*failures, *(row.refused for row in rows if row.refused)],
        "note": note,
        "figures": {**asdict(evaluation), "released": released},
        "limits": gate.model_dump(),
        "provenance": provenance,
        "card": model_card.render(card),
    }


def _differences(folder: Path, fetched: Path) -> Iterator[str]:
    """Yield an error message if the export as users get it is not the one that is measured."""
    expected = manifest.read(folder)
    try:
        if manifest.digest(fetched) != manifest.digest(folder):
            raise ExportError(f"{manifest.NAME} is not that of {folder}")
        for precision in expected.precisions:
            manifest.check(fetched, expected, precision)
    except (ExportError, OSError) as error:
        yield f"export from the DVC remote: {error}; delete it there and run `dvc push`"


def _restore(stage: Stage) -> RunTask:
    """Restore the task whose checkpoint was exported.

    Raises:
        ValueError: the export is missing, or was made from another checkpoint.
    """
    folder, (config, kind) = stage.layout.export(stage.key), run_of(stage)
    exported = manifest.read(folder).provenance["checkpoint"]
    checkpoint = load_checkpoint(stage.layout.model(stage.key))
    if exported != checkpoint.digest:
        raise ValueError(
            f"{folder} was not exported from {checkpoint.folder}; export it again with `albef run`"
        )
    return kind.restore(config, checkpoint)


def _provenance(folder: Path, split: Shards) -> dict[str, Any]:
    metadata = manifest.read(folder)
    origin = dict(metadata.provenance)
    return {
        "manifest, SHA-256": manifest.digest(folder),
        "checkpoint, SHA-256": origin.pop("checkpoint"),
        **training_facts(origin),
        "test data, SHA-256": split.digest,
        "ONNX opset": metadata.onnx.opset,
        "ONNX Runtime": ort.__version__,
    }


def _prepare_behaviour(stage: Stage, dataset: str, kind: type[RunTask]) -> Tested | None:
    settings, data = stage.section("evaluate", EvaluateConfig), stage.layout.data(dataset)
    records = Shards(data, splits_of(settings.splits, describe(data)["splits"])[0])
    tests = prepare(settings.behaviour, kind, records)
    return None if tests is None else Tested(tests, records)


def _previous(kind: str, facts: Mapping[str, Any]) -> tuple[list[Path], str]:
    replaces = facts["replaces"]
    if facts["released"] is None:
        return [], f"Stage {facts['stage']} has no version yet to compare with."
    released = Path(facts["released"])
    try:
        old_kind = manifest.read(released).model.kind
    except ExportError as error:
        # An older format must not prevent its own replacement; a person judges the new export.
        return [], f"Not compared with {replaces}, because it cannot be read: {error}."
    if old_kind != kind:
        raise ValueError(
            f"{replaces} is of kind {old_kind}, but this export is of kind {kind}; release it as a "
            "run with another name"
        )
    return [released], f"This and {replaces} were measured in one process on the same records."


@printable_output()
def main() -> None:
    """Compare for `albef release`; on failure print an error message and exit with code 2."""
    facts, out = map(Path, sys.argv[1:])
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("albef").setLevel(logging.INFO)
    try:
        write_json(out, compare(read_json(facts)))
    except (ValueError, OSError, KeyboardInterrupt) as error:
        if str(error):
            print(f"albef release: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
