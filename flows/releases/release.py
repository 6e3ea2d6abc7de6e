"""``albef release RUN``: release an evaluated export if it passes a gate, or go back."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.utils.serialize import parse_yaml
from gto.exceptions import GTOException

from albef.config import ParamsError, did_you_mean, read_yaml, validate
from albef.io import dying_with_parent, first_line, read_json, write_json
from albef.layout import PARAMS, Layout, runtime
from albef.release.attestation import CARD, FIGURES, LINEAGE, SEAL, SIGNED, check_key, write
from albef.release.gate import ReleaseConfig
from albef.runtime.manifest import digest
from flows import git, graph, results, run_lock, values
from flows.releases.registry import DVC, Registry, annotate, check_names, path_at

PROD = "prod"
"""Stage whose version is compared with an export for a stage without a version."""


class ReleaseError(ValueError):
    """Error with the reasons against a release, and a remedy that addresses all of them."""

    exit_code = 1

    def __init__(self, run: str, reasons: Sequence[str], remedy: str = "") -> None:
        self.reasons = reasons
        lines = [f"{run} is not released:", *(f"- {reason}" for reason in reasons), remedy]
        super().__init__("\n".join(lines).rstrip())


def main(
    run: str,
    stage: str,
    bump: str = "minor",
    *,
    approve: bool = False,
    back: bool = False,
    dry: bool = False,
    accept_limits: bool = False,
    key: Path | None = None,
) -> None:
    """Release what is approved, signed if there is a private key, or go back.

    Raises:
        ReleaseError: the release is refused. The message lists all reasons.
        ParamsError: the release is impossible.
    """
    with reporting(run, stage):
        if back:
            go_back(run, stage, approve)
            return
        candidate = _find(run, stage, bump)
        _check_ready(candidate, accept_limits, key)
        judgement = _judge(candidate)
        _print(candidate, judgement)
        if judgement["reasons"]:
            raise ReleaseError(run, judgement["reasons"])
        if dry:
            print(f"\n{judgement['card']}")
        if approve:
            _publish(candidate, judgement, key)
            return
        new = f"the commit of its model card and the tag {run}@{candidate.version}"
        print(
            f"\nwould be released: {candidate.version if candidate.is_registered else new}, "
            f"holding {stage}{pushed()}; run again with --approve"
        )


@contextmanager
def reporting(run: str, stage: str) -> Iterator[None]:
    """Hold the lock of the project, and report an event if the block refuses a release.

    Before the block, what a killed release left is undone, and the remotes' tags are fetched.
    """
    try:
        with run_lock.acquire():
            git.recover()
            git.fetch()
            yield
    except (ReleaseError, git.OvertakenError) as refused:
        reasons = refused.reasons if isinstance(refused, ReleaseError) else [str(refused)]
        emit("refused", run, stage=stage, reasons=list(reasons))
        raise
    except GTOException as error:
        raise ParamsError(str(error)) from None


def emit(event: str, run: str, **payload: Any) -> None:
    """Report an event of a run to Prefect, if its server is set."""
    if "PREFECT_API_URL" in os.environ:  # Prefect takes a second to import.
        from flows import artifacts

        artifacts.emit(event, f"release.{run}", run=run, **payload)


@dataclass(frozen=True)
class Candidate:
    """Export of a run that may be released, to hold a ``stage`` of the registry.

    ``holder`` is the version that it is compared with: that of the stage, or else of :data:`PROD`.
    ``version`` is a new version, unless one with exactly this export ``is_registered``. ``limits``
    names the limits that differ from those of the holder.
    """

    run: str
    stage: str
    layout: Layout
    registry: Registry
    holder: str | None
    version: str
    is_registered: bool
    limits: str

    @property
    def export(self) -> Path:
        """Folder that is released."""
        return self.layout.export(self.run)

    @property
    def needed(self) -> list[Path]:
        """Files that git must track."""
        metrics = self.layout.metrics(self.run), self.layout.export_metrics(self.run)
        return [PARAMS, DVC, graph.LOCK, *metrics]

    def uncommitted(self) -> Iterator[str]:
        """Yield an error message for each reason why HEAD does not record the release."""
        # Every fresh clone makes the report again, because DVC does not cache it.
        return git.uncommitted(self.needed, [self.layout.record("report")])


def _find(run: str, stage: str, bump: str) -> Candidate:
    values.check(PARAMS)
    runs = list(read_yaml(PARAMS)["export"]["runs"])
    if run not in runs:
        raise ParamsError(f"export.runs has no {run}{did_you_mean(run, runs)}")
    check_names(run, stage)
    registry = Registry(run)
    holder, export_hash = registry.holder(stage) or registry.holder(PROD), registry.hash_at(None)
    is_held = holder and registry.hash_at(registry.versions[holder]) == export_hash
    registered = holder if is_held else registry.same(export_hash)
    limits = "; ".join(changed_limits(registry, holder)) if holder else ""
    version = registered or registry.next(bump)
    layout = values.layout()
    return Candidate(run, stage, layout, registry, holder, version, bool(registered), limits)


def _check_ready(candidate: Candidate, accept_limits: bool, key: Path | None) -> None:
    """Check that other users get what is judged, before anything is measured."""
    run, registry, holder = candidate.run, candidate.registry, candidate.holder
    missing = (f"{path} is missing" for path in candidate.needed if not path.exists())
    stale = [*stale_reasons(run), *missing]
    reasons = [*stale, *candidate.uncommitted(), *git.unpushed()]
    if registry.hash_at(None):
        reasons += registry.lacking(candidate.export)
    reasons += check_key(key, Path()) if key else ()
    if candidate.limits and not accept_limits:
        differ = f"the limits differ from those of {holder}: {candidate.limits}"
        reasons.append(f"{differ}; `--accept-limits` accepts them")
    if reasons:
        remedy = "`albef run` updates, `dvc pull` fetches what is missing locally" if stale else ""
        raise ReleaseError(run, reasons, remedy)
    if registry.holder(candidate.stage) != candidate.version:
        return
    if unpushed := " ".join(git.unpushed_tags(run)):
        push = f"`git push {git.remote()} {unpushed}`"
        raise ReleaseError(run, [f"tags that are not pushed: {unpushed}; {push}"])
    raise ParamsError(
        f"nothing to release: {run} {holder} already holds {candidate.stage} with this export"
    )


def _judge(candidate: Candidate) -> dict[str, Any]:
    """Measure and judge the export in a separate process, because that imports torch."""
    registry, holder, limits = candidate.registry, candidate.holder, candidate.limits
    with tempfile.TemporaryDirectory(prefix="albef-release-") as scratch:
        fetched, released = Path(scratch, "fetched"), Path(scratch, "released")
        registry.fetch_head(candidate.export, fetched)
        if holder:
            registry.fetch(holder, released)
        facts = {
            "run": candidate.run,
            "fetched": str(fetched),
            "released": str(released) if holder else None,
            "version": candidate.version,
            "stage": candidate.stage,
            "replaces": holder,
            "limits": limits and f"The limits differ from those of {holder}: {limits}.",
            "provenance": {
                "git revision": git.git("rev-parse", "HEAD"),
                "export in DVC": registry.hash_at(None),
            },
        }
        known, judged = Path(scratch, "facts.json"), Path(scratch, "judged.json")
        write_json(known, facts)
        command = [sys.executable, "-m", "pipelines.judge", str(known), str(judged)]
        if code := subprocess.run(dying_with_parent(command)).returncode:
            raise SystemExit(code)  # The process has printed its error message.
        return dict(json.loads(judged.read_text()))


def _print(candidate: Candidate, judgement: Mapping[str, Any]) -> None:
    if lost := candidate.registry.lost_files():
        folders = ", ".join(sorted({str(path.parent) for path in lost}))
        print(f"HEAD lacks {folders}; the commit of a new version restores them\n")
    header = ("", "precision", candidate.holder or "released", candidate.version, "change")
    print(f"{results.table(judgement['rows'], (*header, 'allowed'))}\n\n{judgement['note']}")


def _publish(candidate: Candidate, judgement: Mapping[str, Any], key: Path | None) -> None:
    """Commit the files of a release, tag the commit, and push all of it or nothing."""
    run, stage, version = candidate.run, candidate.stage, candidate.version
    folder, is_new = candidate.registry.release_folder(version), not candidate.is_registered
    names = [CARD, FIGURES, LINEAGE, *([SIGNED, SEAL] if key else [])]
    lost = candidate.registry.lost_files() if is_new else {}
    new_files = [*(folder / name for name in names), DVC, *lost] if is_new else []
    # Files may have changed during the measurement.
    if changed := list(candidate.uncommitted()):
        raise ReleaseError(run, changed)
    replaced = candidate.registry.holder(stage)  # The candidate's holder may be that of prod.
    tags = []
    with git.transaction(run, new_files):
        if is_new:
            _write(candidate, judgement, key)
            for path, commit in lost.items():
                git.git("checkout", commit, "--", str(path))
            git.commit_release(run, version, new_files)
            tags.append(candidate.registry.register(version))
        tags.append(Registry(run).assign(version, stage))
    emit("released", run, version=version, stage=stage, replaces=replaced)
    verdict = {"gate": "passed", "note": judgement["note"], "export": digest(candidate.export)}
    register_in_mlflow(candidate.layout, run, version, stage, verdict)
    print(
        f"\nreleased: {', '.join(tags)}{pushed()}\n"
        f"model card: {folder / CARD}\n"
        f"get it: dvc artifacts get ADDRESS {run} --stage {stage}\n"
        f"serve nothing else: albef serve FOLDER --expect sha256:{digest(candidate.export)}"
    )
    if is_new and not key:
        print("not signed: set --key or ALBEF_SIGNING_KEY to sign")


def register_in_mlflow(
    layout: Layout, run: str, version: str, stage: str, tags: Mapping[str, str]
) -> None:
    """Register a version in MLflow's registry too, if MLflow is among the trackers."""
    if "mlflow" not in runtime(read_yaml(PARAMS).get("runtime")).trackers:
        return
    record = read_json(layout.record(f"finetune@{run}")) or {}
    try:
        from albef.trackers.mlflow import register

        register(run, version, stage, tags, record.get("trackers", {}).get("mlflow"))
    except Exception as error:  # The release is complete without it.
        print(f"warning: not registered in MLflow: {first_line(error)}", file=sys.stderr)


def _write(candidate: Candidate, judgement: Mapping[str, Any], key: Path | None) -> None:
    folder = candidate.registry.release_folder(candidate.version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(judgement["card"])
    plain = {name: judgement[name] for name in ("figures", "limits", "provenance", "note")}
    write_json(folder / FIGURES, plain)
    write(candidate.export, folder, candidate.version, git.git("rev-parse", "HEAD"), key)
    annotate(candidate.run, candidate.layout.root, candidate.export)


def pushed() -> str:
    """Return the remote that has been pushed to, as the end of a message; "" without a remote."""
    return f", pushed to {remote}" if (remote := git.remote()) else ""


def go_back(run: str, stage: str, approve: bool) -> None:
    """Let the previous version hold the stage again; see :func:`main`."""
    registry = Registry(run)
    holder = registry.check_holder(stage)
    if (before := registry.before(stage, holder)) is None:
        raise ParamsError(f"no version held {stage} before {run} {holder}")
    revision = registry.versions[before]
    if reasons := list(registry.lacking(path_at(run, revision), revision)):
        raise ReleaseError(run, reasons)
    step = f"{run}: {stage} goes from {holder} back to {before}"
    if not approve:
        print(f"{step}; run again with --approve")
        return
    with git.transaction(run, ()):
        tag = registry.assign(before, stage)
    emit("released", run, version=before, stage=stage, replaces=holder)
    register_in_mlflow(values.layout(), run, before, stage, {})
    print(f"{step}: {tag}")


def stale_reasons(run: str) -> Iterator[str]:
    """Yield the reasons why the export is stale.

    Artifacts of the stages above it may be missing locally, but nothing may have changed.
    """
    nodes, last = graph.read(), (f"export@{run}", f"evaluate@{run}")
    needed = graph.with_above(last, {name: node.upstream for name, node in nodes.items()})
    for name in (name for name in nodes if name in needed):
        harmless = (f"{path} changed without effect" for path in nodes[name].harmless)
        for reason in (*nodes[name].reasons, *harmless):
            if name in last or not graph.is_missing_locally(reason):
                yield f"{name} is stale: {reason}"


def changed_limits(registry: Registry, version: str) -> Iterator[str]:
    """Yield the limits that a version was judged by and that differ now, with both values.

    The limits come from the version's release, defaults included. If it records none, they come
    from its params.yaml, with the defaults of the current code.
    """
    revision = registry.versions[version]
    figures = git.show(revision, registry.release_folder(version) / FIGURES)
    old_limits = json.loads(figures).get("limits") if figures else None
    new_limits = read_limits(PARAMS.read_text()).model_dump()
    past_params = git.show(revision, PARAMS) or "{}"
    for name, limit in (old_limits or read_limits(past_params).model_dump()).items():
        if (new := new_limits.get(name)) != limit:
            yield f"release.{name} {limit:g} -> {'none' if new is None else f'{new:g}'}"


def read_limits(text: str) -> ReleaseConfig:
    """Return the limits of a params file."""
    fields = ReleaseConfig.model_fields
    section = parse_yaml(text, PARAMS).get("release") or {}
    limits = {name: value for name, value in section.items() if name in fields}
    return validate(ReleaseConfig, limits, where=str(PARAMS), key="release")
