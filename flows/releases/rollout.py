"""``albef release RUN --from-canary URL``: promote or roll back what servers try out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.config import ParamsError
from albef.layout import PARAMS
from albef.release.attestation import CARD, SEAL, check_key, sign
from albef.release.rollout import Trial, judge_trial, read_metrics
from flows import git, results, values
from flows.releases.registry import Registry
from flows.releases.release import (
    ReleaseError,
    emit,
    pushed,
    read_limits,
    register_in_mlflow,
    reporting,
)

NEXT = "next"
"""Stage of the registry whose version is tried out."""


def main(run: str, stage: str, servers: Sequence[str], *, approve: bool, key: Path | None) -> None:
    """Let the version that holds :data:`NEXT` hold a stage, or withdraw it.

    If approved, the figures are added to the model card of its release, which is signed again if
    there is a private key.

    Args:
        run: the run.
        stage: stage of the registry that the version will hold.
        servers: URLs of servers that try out the version.
        approve: whether to change anything.
        key: file of the private key, or None.

    Raises:
        ReleaseError: the version is withdrawn, or it is too early. The message has the reasons.
        ParamsError: a decision is impossible.
    """
    with reporting(run, stage):
        if stage == NEXT:
            raise ParamsError(f"{NEXT} is tried out; choose another --stage, such as prod")
        values.check(PARAMS)
        _decide(Registry(run), stage, servers, approve, key)


def _decide(
    registry: Registry, stage: str, servers: Sequence[str], approve: bool, key: Path | None
) -> None:
    run, holder, version = registry.run, registry.holder(stage), registry.check_holder(NEXT)
    samples = [sample for url in servers for sample in read_metrics(url)]
    trial = judge_trial(read_limits(PARAMS.read_text()), run, samples)
    header = ("", "version", holder or "stable", version, "change", "allowed")
    rows = [row[:6] for row in trial.rows]
    print(results.table(rows, header))
    if problems := [*trial.early, *_problems(registry, version, trial, key)]:
        raise ReleaseError(run, problems, f"{version} still holds {NEXT}")
    refused = [row.refused for row in trial.rows if row.refused]
    verdict = f"{version} no longer holds {NEXT}" if refused else f"{version} holds {stage}"
    if approve:
        lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * 6, *rows)]
        trial_text = "\n".join([f"{verdict} after this trial on servers.", "", *lines])
        tags = _record(registry, version, trial_text, None if refused else stage, key)
        verdict = f"{verdict}: {', '.join(tags)}{pushed()}"
    else:
        verdict = f"would be decided: {verdict}; run again with --approve"
    if refused:
        raise ReleaseError(run, refused, verdict)
    if approve:
        emit("released", run, version=version, stage=stage, replaces=holder)
        register_in_mlflow(values.layout(), run, version, stage, {})
    print(f"\n{verdict}")


def _record(
    registry: Registry, version: str, trial: str, stage: str | None, key: Path | None
) -> list[str]:
    """Add a trial to the model card, let the version hold a stage, if any, and return the tags."""
    card = registry.release_folder(version) / CARD
    files = [card, card.with_name(SEAL)] if key else [card]
    with git.transaction(registry.run, files):
        card.write_text(f"{card.read_text()}\n## Trial\n\n{trial}\n")
        if key:
            sign(card.parent, key, files[1])
        git.commit_release(registry.run, version, files)
        tags = [registry.assign(version, stage)] if stage else []
        return tags + registry.unassign(NEXT)


def _problems(registry: Registry, version: str, trial: Trial, key: Path | None) -> Iterator[str]:
    card = registry.release_folder(version) / CARD
    if trial.digests != {registry.digest(version)}:
        tried = ", ".join(f"sha256:{digest}" for digest in sorted(trial.digests))
        yield f"the servers try out {tried}, not {version}; wait until they follow {NEXT}"
    if card.with_name(SEAL).exists() and not key:
        yield f"{card.parent} is signed; set --key or ALBEF_SIGNING_KEY to sign its card again"
    yield from check_key(key, Path()) if key else ()
    yield from git.uncommitted([card])
    yield from git.unpushed()
