"""``albef release RUN``: an evaluated export goes to production behind a gate, or back."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gto.exceptions import GTOException

from albef.config import ParamsError, nearest, read_yaml
from albef.layout import PARAMS, Layout
from flows import git, graph, results, run_lock, values
from flows.releases.registry import DVC, Registry, annotate, named, path_at

CARDS = Path("releases")
"""Model cards and what they were written from, a folder for each run."""


class Refused(Exception):
    """Reasons against a release, a sentence each, and what helps against all of them."""

    def __init__(self, reasons: list[str], remedy: str = "") -> None:
        lines = [f"- {reason}" for reason in reasons]
        super().__init__("\n".join([*lines, *([remedy] if remedy else [])]))


def main(run: str, stage: str, bump: str, *, approve: bool, back: bool, dry: bool) -> int:
    """Release, or go back; exit code 1 when refused.

    Args:
        run: whose export.
        stage: what the version is to hold.
        bump: which part of the version counts up.
        approve: do it, and not only say what would be done.
        back: let the version before hold the stage again.
        dry: show the model card too.

    Raises:
        ParamsError: what cannot be done at all.
    """
    try:
        with run_lock.acquire():
            if back:
                go_back(run, stage, approve)
            else:
                release(run, stage, bump, approve, dry)
    except Refused as refused:
        print(f"albef release: {run} is not released:\n{refused}", file=sys.stderr)
        return 1
    except GTOException as error:
        raise ParamsError(str(error)) from None
    return 0


def release(run: str, stage: str, bump: str, approve: bool, dry: bool) -> None:
    """Compare, judge and, once approved, register.

    Raises:
        Refused: with all reasons at once.
        ParamsError: there is nothing to judge.
    """
    values.prepare(None, [])
    layout = values.layout()
    _known(run)
    named(run, stage)
    needed = [PARAMS, DVC, graph.LOCK, layout.metrics(run)]
    needed.append(layout.export_metrics(run))
    if stale := [*_stale(run), *(f"{p} is missing" for p in needed if not p.exists())]:
        raise Refused(stale, "`albef run` brings it up to date, `dvc pull` what is elsewhere")
    git.fetch()
    registry = Registry(run)
    here, holder = registry.hash_here(), registry.holder(stage)
    assert here is not None
    if holder and registry.hash_at(registry.versions[holder]) == here:
        raise ParamsError(
            f"{run} {holder} holds {stage} and is exactly this export; there is nothing to release"
        )
    reasons = list(git.uncommitted(needed))
    if not reasons:
        reasons = [*git.unpushed(), *registry.lacking(layout.export(run), "HEAD")]
    version = registry.same(here)
    anew = version is None
    version = version or registry.next(bump)
    further = _further(run, layout, registry, version, holder)
    provenance = {"git revision": git.git("rev-parse", "HEAD"), "export in DVC": here}
    facts = {
        "version": version,
        "stage": stage,
        "replaces": holder,
        "further": further,
        "provenance": provenance,
    }
    found = _compare(run, registry, facts)
    print(_shown(found, further, holder, version))
    if reasons := [*reasons, *found["reasons"]]:
        raise Refused(reasons)
    if dry:
        print(f"\n{found['card']}")
    remote = git.remote()
    pushed = f", pushed to {remote}" if remote else ""
    what = f"the commit of its model card and the tag {run}@{version}" if anew else version
    if not approve:
        print(f"\nit would be released: {what}, holding {stage}{pushed}; run again with --approve")
        return
    tags: list[str] = []
    card = CARDS / run / f"{version}.md"
    written = [card, card.with_suffix(".json"), DVC] if anew else []
    if changed := list(git.uncommitted(needed)):  # while it was measured
        raise Refused(changed)
    with git.whole(written, tags):
        if anew:
            _write(run, version, found, written)
            tags.append(registry.register(version))
        tags.append(Registry(run).assign(version, stage))
    print(f"\nreleased: {', '.join(tags)}{pushed}")
    print(
        f"others get it with `dvc artifacts get ADDRESS {run} --stage {stage}`; "
        f"its model card is {card}"
    )


def go_back(run: str, stage: str, approve: bool) -> None:
    """Let the version before hold the stage again.

    Raises:
        Refused: what others would need of it is not there.
        ParamsError: there is none.
    """
    git.fetch()
    registry = Registry(run)
    holder, before = registry.holder(stage), registry.before(stage)
    if holder is None:
        raise ParamsError(f"no version of {run} holds {stage}; `gto show` lists what there is")
    if before is None:
        raise ParamsError(f"{run} {holder} is the first that held {stage}")
    revision = registry.versions[before]
    if reasons := list(registry.lacking(path_at(run, revision), revision)):
        raise Refused(reasons)
    said = f"{run}: {stage} goes from {holder} back to {before}"
    if not approve:
        print(f"{said}; run again with --approve")
        return
    tags: list[str] = []
    with git.whole((), tags):
        tags.append(registry.assign(before, stage))
    print(f"{said}: {tags[0]}")


def _known(run: str) -> None:
    runs = list(read_yaml(PARAMS)["export"]["runs"])
    if run not in runs:
        near = nearest(run, runs)
        raise ParamsError(
            f"there is no export {run}"
            + (f"; did you mean {near}?" if near else f"; export.runs has {', '.join(runs)}")
        )


def _stale(run: str) -> Iterator[str]:
    """Why the export is not what this code, these values and data make.

    Of the stages above it the products may be elsewhere, but nothing may have changed.
    """
    nodes = graph.read()
    own = (f"export@{run}", f"evaluate@{run}")
    todo, seen = list(own), dict.fromkeys(own)
    while todo:
        above = nodes[todo.pop()].upstream
        todo += [name for name in above if name not in seen]
        seen |= dict.fromkeys(above)
    for name in nodes:
        if name in seen:
            for reason in nodes[name].reasons:
                if name in own or not graph.elsewhere(reason):
                    yield f"{name} is stale: {reason}"


def _compare(run: str, registry: Registry, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Measure and judge, in a process: what does it imports torch.

    Raises:
        ParamsError: the released export cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="albef-release-") as scratch:
        out, released = Path(scratch) / "found.json", Path(scratch) / "released"
        if facts["replaces"]:
            registry.fetch(facts["replaces"], released)
        before = str(released) if facts["replaces"] else ""
        command = [
            sys.executable,
            "-m",
            "pipelines.judge",
            run,
            str(out),
            json.dumps(facts),
            before,
        ]
        if code := subprocess.run(command).returncode:
            raise SystemExit(code)  # it said why
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def _further(
    run: str, layout: Layout, registry: Registry, version: str, holder: str | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Other metrics that stages may have left of a run, as products/metrics/WHAT/RUN.json.

    Numbers by name, by version, by what they test; they are shown, and not judged.
    """
    found = {}
    for path in sorted((layout.root / "metrics").glob(f"*/{run}.json")):
        if path == layout.export_metrics(run):
            continue
        before = git.show(registry.versions[holder], path) if holder else None
        sides = {holder: _numbers(json.loads(before))} if holder and before else {}
        found[path.parent.name] = {**sides, version: _numbers(json.loads(path.read_text()))}
    return found


def _numbers(values: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """The numbers in nested mappings by dotted name."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{within}{name}.")
        elif isinstance(value, int | float):
            found[f"{within}{name}"] = value
    return found


def _shown(
    found: Mapping[str, Any],
    further: Mapping[str, Mapping[str, Mapping[str, float]]],
    holder: str | None,
    version: str,
) -> str:
    """The comparison as text."""
    rows = [*found["rows"]]
    for what, sides in further.items():
        before = sides.get(holder or "", {})
        for name, value in sides[version].items():
            earlier = f"{before[name]:.4g}" if name in before else ""
            rows.append((f"{what} {name}", "", earlier, f"{value:.4g}", "", ""))
    header = ("", "precision", holder or "released", version, "change", "allowed")
    return f"{results.table(rows, header)}\n\n{found['note']}"


def _write(run: str, version: str, found: Mapping[str, Any], written: list[Path]) -> None:
    """Commit the model card and what it was written from, and name the export for DVC."""
    card, facts, _ = written
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(found["card"])
    plain = {name: found[name] for name in ("figures", "provenance", "note")}
    facts.write_text(json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    layout = values.layout()
    annotate(run, layout.root, layout.export(run))
    git.git("add", "--", *map(str, written))
    message = f"Release {run} {version}"
    git.git("commit", "--quiet", "--message", message, "--", *map(str, written))
