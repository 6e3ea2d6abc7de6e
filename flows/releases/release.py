"""``albef release RUN``: an evaluated export goes to production behind a gate, or back."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.utils.serialize import parse_yaml
from gto.exceptions import GTOException

from albef.config import ParamsError, did_you_mean, read_yaml, validate
from albef.io import write_json
from albef.layout import PARAMS, Layout
from albef.release.attestation import CARD, FIGURES, LINEAGE, SBOM, SEAL, SIGNED, check_key, write
from albef.release.gate import ReleaseConfig
from albef.runtime.manifest import digest
from flows import git, graph, results, run_lock, values
from flows.releases.registry import DVC, Registry, annotate, check_names, path_at

SIGNING_KEY = "ALBEF_SIGNING_KEY"
"""Variable that names the file of the private key."""
Metrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Numbers by name, by version, by what they test."""


class Refused(ValueError):
    """Reasons against a release, a sentence each, and what helps against all of them."""

    exit_code = 1

    def __init__(self, run: str, reasons: Sequence[str], remedy: str = "") -> None:
        self.reasons = reasons
        lines = [f"{run} is not released:", *(f"- {reason}" for reason in reasons), remedy]
        super().__init__("\n".join(lines).rstrip())


def main(
    run: str,
    stage: str,
    bump: str,
    *,
    approve: bool,
    back: bool,
    dry: bool,
    accept_limits: bool,
    key: Path | None,
) -> None:
    """Release what is approved, signed with a private key if there is one, or go back.

    Raises:
        Refused: with all reasons at once.
        ParamsError: what cannot be done at all.
    """
    try:
        with run_lock.acquire():
            if back:
                go_back(run, stage, approve)
            else:
                release(run, stage, bump, approve, dry, accept_limits, key)
    except Refused as refused:
        _emit("refused", run, stage=stage, reasons=list(refused.reasons))
        raise
    except GTOException as error:
        raise ParamsError(str(error)) from None


def _emit(event: str, run: str, **payload: Any) -> None:
    if "PREFECT_API_URL" in os.environ:  # Prefect takes a second to import
        from flows.artifacts import emit

        emit(event, f"release.{run}", run=run, **payload)


def release(
    run: str,
    stage: str,
    bump: str,
    approve: bool,
    dry: bool,
    accept_limits: bool = False,
    key: Path | None = None,
) -> None:
    """Compare, judge and, once approved, register; see :func:`main`."""
    values.check(PARAMS)
    layout = values.layout()
    runs = list(read_yaml(PARAMS)["export"]["runs"])
    if run not in runs:
        raise ParamsError(f"there is no export {run}{did_you_mean(run, runs)}")
    check_names(run, stage)
    needed = [PARAMS, DVC, graph.LOCK, layout.metrics(run), layout.export_metrics(run)]
    git.recover()
    git.fetch()
    registry = Registry(run)
    export_hash, holder = registry.hash_here(), registry.holder(stage)
    stale = [*stale_reasons(run), *(f"{p} is missing" for p in needed if not p.exists())]
    reasons = [*stale, *git.uncommitted(needed), *git.unpushed()]
    if export_hash:
        reasons += registry.lacking(layout.export(run))
    reasons += check_key(key, Path()) if key else ()
    limits = ""
    if holder and (changes := "; ".join(changed_limits(registry, holder))):
        limits = f"The limits are not those of {holder}: {changes}."
        if not accept_limits:
            judge_by = "`--accept-limits` judges by the new ones"
            reasons.append(f"{limits[0].lower()}{limits[1:-1]}; {judge_by}")
    if reasons:  # before anything is measured
        remedy = "`albef run` brings it up to date, `dvc pull` what is elsewhere" if stale else ""
        raise Refused(run, reasons, remedy)
    if holder and registry.hash_at(registry.versions[holder]) == export_hash:
        if unpushed := " ".join(git.unpushed_tags(run)):
            push = f"`git push {git.remote()} {unpushed}`"
            raise Refused(run, [f"tags that are not pushed: {unpushed}; {push}"])
        raise ParamsError(
            f"{run} {holder} holds {stage} and is exactly this export; there is nothing to release"
        )
    registered = registry.same(export_hash)
    version = registered or registry.next(bump)
    further = _read_further(run, layout, registry, version, holder)
    judgement = _judge(
        run,
        registry,
        layout.export(run),
        {
            "version": version,
            "stage": stage,
            "replaces": holder,
            "further": further,
            "limits": limits,
            "provenance": {
                "git revision": git.git("rev-parse", "HEAD"),
                "export in DVC": export_hash,
            },
        },
    )
    print(_format_comparison(judgement, further, holder, version))
    if judgement["reasons"]:
        raise Refused(run, judgement["reasons"])
    if dry:
        print(f"\n{judgement['card']}")
    remote = git.remote()
    pushed = f", pushed to {remote}" if remote else ""
    if not approve:
        new = f"the commit of its model card and the tag {run}@{version}"
        print(
            f"\nit would be released: {registered or new}, holding {stage}{pushed}; run again with "
            "--approve"
        )
        return
    folder = registry.release_folder(version)
    names = [CARD, FIGURES, LINEAGE, SBOM, *([SIGNED, SEAL] if key else [])]
    new_files = [] if registered else [*(folder / name for name in names), DVC]
    if changed := list(git.uncommitted(needed)):  # while it was measured
        raise Refused(run, changed)
    tags: list[str] = []
    with git.transaction(run, new_files):
        if not registered:
            _commit(run, version, judgement, folder, new_files, layout, key)
            tags.append(registry.register(version))
        tags.append(Registry(run).assign(version, stage))
    _emit("released", run, version=version, stage=stage, replaces=holder)
    print(
        f"\nreleased: {', '.join(tags)}{pushed}\n"
        f"others get it with `dvc artifacts get ADDRESS {run} --stage {stage}`, and load no other "
        f"with `albef serve FOLDER --expect sha256:{digest(layout.export(run))}`; "
        f"its model card is {folder / CARD}"
        + ("" if registered or key else f"\nnot signed: {SIGNING_KEY} names no private key")
    )


def go_back(run: str, stage: str, approve: bool) -> None:
    """Let the version before hold the stage again; see :func:`main`."""
    git.recover()
    git.fetch()
    registry = Registry(run)
    holder, before = registry.holder(stage), registry.before(stage)
    if holder is None:
        raise ParamsError(f"no version of {run} holds {stage}; `gto show` lists what there is")
    if before is None:
        raise ParamsError(f"{run} {holder} is the first that held {stage}")
    revision = registry.versions[before]
    if reasons := list(registry.lacking(path_at(run, revision), revision)):
        raise Refused(run, reasons)
    step = f"{run}: {stage} goes from {holder} back to {before}"
    if not approve:
        print(f"{step}; run again with --approve")
        return
    with git.transaction(run, ()):
        tag = registry.assign(before, stage)
    _emit("released", run, version=before, stage=stage, replaces=holder)
    print(f"{step}: {tag}")


def stale_reasons(run: str) -> Iterator[str]:
    """Why the export is not what this code, these values and data make.

    Of the stages above it the products may be elsewhere, but nothing may have changed.
    """
    nodes = graph.read()
    for name in stages_of(run, nodes):
        for reason in nodes[name].reasons:
            if name in _last(run) or not graph.elsewhere(reason):
                yield f"{name} is stale: {reason}"


def stages_of(run: str, nodes: Mapping[str, graph.Node]) -> list[str]:
    """The stages that made an export and its metrics, in order."""
    needed = graph.with_above(_last(run), lambda name: nodes[name].upstream)
    return [name for name in nodes if name in needed]


def _last(run: str) -> tuple[str, str]:
    return f"export@{run}", f"evaluate@{run}"


def changed_limits(registry: Registry, version: str) -> Iterator[str]:
    """The limits that a version was judged by, as its release tells them, defaults included, and
    that are others now: from and to.

    Of a version that tells none, those of its params.yaml, with the defaults of this code.
    """
    revision = registry.versions[version]
    figures = git.show(revision, registry.release_folder(version) / FIGURES)
    old_limits = json.loads(figures).get("limits") if figures else None
    new_limits = _limits(PARAMS.read_text())
    for name, limit in (old_limits or _limits(git.show(revision, PARAMS) or "{}")).items():
        if (new := new_limits.get(name)) != limit:
            yield f"release.{name} {limit:g} -> {'none' if new is None else f'{new:g}'}"


def _limits(text: str) -> dict[str, float]:
    """All limits of a params file."""
    fields = ReleaseConfig.model_fields
    section = parse_yaml(text, PARAMS).get("release") or {}
    limits = {name: value for name, value in section.items() if name in fields}
    return validate(ReleaseConfig, limits, where=str(PARAMS), key="release").model_dump()


def _judge(run: str, registry: Registry, export: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Measure and judge, in a process: what does it imports torch."""
    with tempfile.TemporaryDirectory(prefix="albef-release-") as scratch:
        out, fetched, released = (Path(scratch, n) for n in ("judged.json", "fetched", "released"))
        registry.fetch_head(export, fetched)
        if facts["replaces"]:
            registry.fetch(facts["replaces"], released)
        before = str(released) if facts["replaces"] else ""
        command = [sys.executable, "-m", "pipelines.judge", run, str(out), json.dumps(facts)]
        if code := subprocess.run([*command, str(fetched), before]).returncode:
            raise SystemExit(code)  # it said why
        return dict(json.loads(out.read_text()))


def _read_further(
    run: str, layout: Layout, registry: Registry, version: str, holder: str | None
) -> Metrics:
    """Other metrics that stages may have left of a run, as products/metrics/WHAT/RUN.json.

    They are shown, and not judged.
    """
    further = {}
    for path in sorted((layout.root / "metrics").glob(f"*/{run}.json")):
        if path != layout.export_metrics(run):
            before = git.show(registry.versions[holder], path) if holder else None
            texts = {holder: before, version: path.read_text()}
            further[path.parent.name] = {
                name: results.numbers(json.loads(text))
                for name, text in texts.items()
                if name and text
            }
    return further


def _format_comparison(
    judgement: Mapping[str, Any], further: Metrics, holder: str | None, version: str
) -> str:
    rows = [*judgement["rows"]]
    for source, sides in further.items():
        before = sides.get(holder or "", {})
        for name, value in sides[version].items():
            earlier = f"{before[name]:.4g}" if name in before else ""
            rows.append((f"{source} {name}", "", earlier, f"{value:.4g}", "", ""))
    header = ("", "precision", holder or "released", version, "change", "allowed")
    return f"{results.table(rows, header)}\n\n{judgement['note']}"


def _commit(
    run: str,
    version: str,
    judgement: Mapping[str, Any],
    folder: Path,
    new_files: Sequence[Path],
    layout: Layout,
    key: Path | None,
) -> None:
    """Commit the model card and all else that is told of a release, and name the export for DVC."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(judgement["card"])
    plain = {name: judgement[name] for name in ("figures", "limits", "provenance", "note")}
    write_json(folder / FIGURES, plain)
    write(layout.export(run), folder, version, git.git("rev-parse", "HEAD"), key)
    annotate(run, layout.root, layout.export(run))
    git.git("add", "--", *map(str, new_files))
    message = git.commit_message(run, version)
    git.git("commit", "--quiet", "--message", message, "--", *map(str, new_files))
