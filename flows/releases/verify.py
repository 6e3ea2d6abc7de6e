"""``albef verify FOLDER RELEASE``: an export is what was released, and can be made again."""

import contextlib
import json
import math
import os
import random
import tempfile
from pathlib import Path

from dvc.utils.serialize import load_yaml

from albef.config import ParamsError
from albef.layout import ENVIRONMENT
from albef.release.attestation import SBOM, Unverified, verify_release
from albef.run_record import RunRecord, read
from flows import graph, values
from flows.experiments.clone import Clone
from flows.experiments.revisions import files_at
from flows.releases.release import stages_of
from flows.results import numbers

ANY = "any"
TOLERANCE = 0.05
"""By which figures may differ on another kind of machine, absolutely or as a share."""
_WORK = Path(".dvc/tmp")


def main(
    export: Path, release: Path, key: Path, replay: str | None, seed: int, tolerance: float
) -> None:
    """Verify the signatures, the lineage and, if it is asked for, that a stage gives the same.

    Raises:
        Unverified: what is not as it was released, by name.
        ParamsError: no such stage.
    """
    lineage = verify_release(export, release, key)
    parameters = lineage["predicate"]["buildDefinition"]["externalParameters"]
    run, version, commit = (parameters[name] for name in ("run", "version", "commit"))
    digest = lineage["subject"][0]["digest"]["sha256"]
    sources = lineage["predicate"]["buildDefinition"]["resolvedDependencies"]
    software = json.loads((release / SBOM).read_text())["components"]
    print(
        f"{run} {version}, sha256:{digest}, is signed by the owner of {key}: "
        f"{len(lineage['subject'])} files, {len(sources)} things that it was made of, "
        f"{len(software)} packages"
    )
    if replay:
        print(_replay(run, commit, replay, f"{digest} {seed}", tolerance))


def _replay(run: str, commit: str, replay: str, draw: str, tolerance: float) -> str:
    """Run a stage again, in a clone at a commit, from what the DVC remote has; how it compares."""
    _WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="albef-verify-", dir=_WORK) as work:
        folder = Path(work) / "clone"
        clone = Clone(folder, commit, None)
        with contextlib.chdir(folder):
            nodes, layout = graph.read(), values.layout()
            stages = stages_of(run, nodes)
            name = random.Random(draw).choice(stages) if replay == ANY else replay
            if name not in stages:
                raise ParamsError(f"--replay: {run} was made by {', '.join(stages)}, not by {name}")
            before, record = _outs(name), read(layout.record(name))
        print(f"{name} runs again, of what {commit[:12]} has", flush=True)
        above = set(nodes[name].upstream)
        for view in (stage for stage in nodes[name].upstream if stage.startswith("curate@")):
            above.update(nodes[view].upstream)  # whose pictures it shows
        if above:
            clone.dvc("pull", "--quiet", *sorted(above))
        os.environ[f"{ENVIRONMENT}SCRATCH"] = str(folder / "scratch")  # nothing is gone on with
        clone.dvc("repro", "--single-item", "--force", "--no-run-cache", name)
        with contextlib.chdir(folder):
            after, now = _outs(name), read(layout.record(name))
            changed = [path for path in before if after.get(path) != before[path]]
            if not changed:
                return f"{name} gives the same bytes: {', '.join(before)}"
            if not (unlike := _unlike(record, now) if record and now else ""):
                raise Unverified(
                    f"{name} gives other bytes than were released, on the same kind of processor "
                    f"and with the same libraries: {', '.join(changed)}"
                )
            return _within(name, commit, changed, unlike, tolerance)


def _outs(name: str) -> dict[str, str]:
    """DVC's hash of each product of a stage, as dvc.lock has it."""
    outs = load_yaml(graph.LOCK)["stages"][name]["outs"]
    return {out["path"]: str(out.get("md5", out.get("hash"))) for out in outs}


def _unlike(record: RunRecord, now: RunRecord) -> str:
    """In what this machine differs from the one that made a product; "" if in nothing."""
    if record.machine != now.machine:
        return f"{now.machine}, not {record.machine}"
    pairs = {name: (record.versions.get(name, ""), new) for name, new in now.versions.items()}
    return ", ".join(f"{name} {new}, not {old}" for name, (old, new) in pairs.items() if old != new)


def _figures(text: str) -> dict[str, float]:
    """The numbers of a metrics file, or the last point of a curve."""
    if text.startswith("{"):
        return numbers(json.loads(text))
    return {"the last point": float(text.split()[-1])}


def _within(name: str, commit: str, changed: list[str], unlike: str, tolerance: float) -> str:
    """How the figures of products with other bytes compare; a clone is the working folder.

    Raises:
        Unverified: one is outside of the tolerance, or there are none to compare.
    """
    compared = 0
    with files_at(commit) as files:
        for path in (file for out in changed for file in files.find(out)):
            is_metrics = path in changed and path.endswith(".json")
            if not (is_metrics or path.endswith(".tsv")) or not Path(path).is_file():
                continue
            was = _figures(files.read_text(path))
            for figure, value in _figures(Path(path).read_text()).items():
                compared += 1
                near = math.isclose(value, was.get(figure, math.nan), rel_tol=tolerance)
                if not near and abs(value - was.get(figure, math.nan)) > tolerance:
                    raise Unverified(f"{name}, {path}: {figure} is {value:g} after {was[figure]:g}")
    if not compared:
        raise Unverified(f"{name} gives other bytes ({', '.join(changed)}) and has no figures")
    return (
        f"{name} gives other bytes on another kind of machine ({unlike}); its {compared} figures "
        f"are the same within {tolerance:g}"
    )
