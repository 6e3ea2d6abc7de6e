"""``albef verify FOLDER RELEASE``: verify that an export is what was released and can be remade."""

import contextlib
import json
import math
import os
import random
import tempfile
from pathlib import Path
from typing import NamedTuple

from dvc.utils.serialize import load_yaml

from albef.config import ParamsError
from albef.layout import ENVIRONMENT
from albef.release.attestation import AttestationError, verify_release
from albef.report.wording import numbers
from albef.run_record import RunRecord, read
from flows import graph, values
from flows.experiments.clone import Clone
from flows.releases.release import stages_of

ANY = "any"
TOLERANCE = 0.05
"""Difference allowed for figures on another kind of machine, absolute or relative."""
_WORK = Path(".dvc/tmp")


def main(
    export: Path, release: Path, key: Path, replay: str | None, seed: int, tolerance: float
) -> None:
    """Verify the signatures, the lineage and, if requested, that a stage reproduces its artifacts.

    Raises:
        AttestationError: something is not as it was released. The message names it.
        ParamsError: the stage to run again does not exist.
    """
    lineage = verify_release(export, release, key)
    parameters = lineage["predicate"]["buildDefinition"]["externalParameters"]
    run, version, commit = (parameters[name] for name in ("run", "version", "commit"))
    digest = lineage["subject"][0]["digest"]["sha256"]
    sources = lineage["predicate"]["buildDefinition"]["resolvedDependencies"]
    print(
        f"{run} {version}, sha256:{digest}, is signed with the private key of {key}: "
        f"{len(lineage['subject'])} files, {len(sources)} inputs"
    )
    if replay:
        print(_replay(run, commit, replay, f"{digest} {seed}", tolerance))


def _replay(run: str, commit: str, replay: str, draw: str, tolerance: float) -> str:
    """Run a stage, or one drawn by ``draw``, again in a clone; return how its artifacts compare."""
    _WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="albef-verify-", dir=_WORK) as work:
        folder = Path(work) / "clone"
        clone = Clone(folder, commit, None)
        with contextlib.chdir(folder):
            nodes = graph.read()
            stages = stages_of(run, nodes)
            name = random.Random(draw).choice(stages) if replay == ANY else replay
            if name not in stages:
                raise ParamsError(f"--replay: {run} has no stage {name}, but {', '.join(stages)}")
        print(f"running {name} again at commit {commit[:12]}", flush=True)
        needed = {name, *nodes[name].upstream}
        for stage in nodes[name].upstream:
            if stage.startswith("curate@"):  # It uses the images of its base dataset.
                needed.update(nodes[stage].upstream)
        clone.dvc("pull", "--quiet", *sorted(needed))
        with contextlib.chdir(folder):
            before = _outcome(name)
        # An empty scratch folder keeps the stage from resuming.
        os.environ[f"{ENVIRONMENT}SCRATCH"] = str(folder / "scratch")
        clone.dvc("repro", "--single-item", "--force", "--no-run-cache", name)
        with contextlib.chdir(folder):
            return _compare(name, before, _outcome(name), tolerance)


class Outcome(NamedTuple):
    """Artifacts of a stage: DVC's hashes by path, and figures from metrics and curves.

    ``environment`` has the machine and the versions of libraries, from the stage's run record.
    """

    hashes: dict[str, str]
    figures: dict[str, float]
    environment: dict[str, str]


def _outcome(name: str) -> Outcome:
    """Return the artifacts of a stage of the project in the working directory."""
    outs = load_yaml(graph.LOCK)["stages"][name]["outs"]
    hashes = {out["path"]: str(out.get("md5", out.get("hash"))) for out in outs}
    figures: dict[str, float] = {}
    for path in (file for out in map(Path, hashes) for file in (out, *out.rglob("*.tsv"))):
        if path.suffix == ".json":
            found = numbers(json.loads(path.read_text()))
            figures |= {f"{path}: {figure}": value for figure, value in found.items()}
        elif path.suffix == ".tsv":
            figures[str(path)] = float(path.read_text().split()[-1])
    record = read(values.layout().record(name)) or RunRecord()
    return Outcome(hashes, figures, {"machine": record.machine, **record.versions})


def _compare(name: str, before: Outcome, after: Outcome, tolerance: float) -> str:
    """Return how a stage's artifacts compare with earlier ones; raise if they should not differ."""
    if after.hashes == before.hashes:
        return f"{name} gives the same bytes: {', '.join(before.hashes)}"
    if after.environment == before.environment:
        raise AttestationError(f"{name} gives other bytes with the same machine and libraries")
    if not before.figures:
        raise AttestationError(f"{name} gives other bytes on another machine and has no figures")
    for figure, value in before.figures.items():
        now = after.figures.get(figure, math.nan)
        if not math.isclose(now, value, rel_tol=tolerance, abs_tol=tolerance):
            raise AttestationError(f"{name}: {figure} is {now:g}, was {value:g}")
    return (
        f"{name} gives other bytes with another machine or other libraries, and the same "
        f"{len(before.figures)} figures within {tolerance:g}"
    )
