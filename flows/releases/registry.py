"""Registry of exports: GTO's git tags, together with what DVC stores of each version."""

import datetime as dt
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml, parse_yaml
from gto import api
from gto.constants import assert_name_is_valid
from gto.exceptions import GTOException
from gto.versions import SemVer

from albef.config import ParamsError
from albef.release.attestation import LINEAGE
from flows.experiments.revisions import files_at
from flows.git import git, show
from flows.graph import LOCK, one_line

DVC = Path("dvc.yaml")
_PATIENCE_S = 5.0


class Registry:
    """Versions of a run's export.

    Attributes:
        run: the run.
        versions: commit of each version, the oldest first, without withdrawn versions.
        last: highest version that was ever registered, or None.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        commits: dict[str, str] = {}
        withdrawn: set[str] = set()
        events = api.history(".", artifact=run, ascending=True)
        for event in events:
            if event["event"] == "registration":
                commits[event["version"]] = event["commit"]
                withdrawn.discard(event["version"])
            elif event["event"] == "deregistration":
                withdrawn.add(event["version"])
        order = sorted(commits, key=SemVer)
        self.versions = {name: commits[name] for name in order if name not in withdrawn}
        self.last: str | None = order[-1] if order else None
        self._assigned = [e for e in events if e["event"] in ("assignment", "unassignment")]

    def holder(self, stage: str) -> str | None:
        """Return the version that holds a stage, or None."""
        if not self._assigned:
            return None
        # GTO's find_versions_in_stage returns the highest version, not the last assigned one.
        holders = api.show(".", f"{self.run}#{stage}")
        return next((v["version"] for v in holders if v["version"] in self.versions), None)

    def check_holder(self, stage: str) -> str:
        """Return the version that holds a stage.

        Raises:
            ParamsError: no version holds it.
        """
        if (holder := self.holder(stage)) is None:
            raise ParamsError(f"no version of {self.run} holds {stage}; see `gto show`")
        return holder

    def before(self, stage: str, holder: str) -> str | None:
        """Return the highest version below a stage's holder that held the stage before, or None."""
        past_holders = {event["version"] for event in self._assigned if event["stage"] == stage}
        lower = [v for v in self.versions if v in past_holders and SemVer(v) < SemVer(holder)]
        return lower[-1] if lower else None

    def next(self, bump: str) -> str:
        """Return the number of a new version."""
        last = SemVer(self.last or "v0.0.0")
        return str(last.bump(**{f"bump_{bump}": True}).version)

    def same(self, export: str | None) -> str | None:
        """Return the newest version with exactly this export, given by DVC's hash, or None."""
        same = [v for v, revision in self.versions.items() if self.hash_at(revision) == export]
        return same[-1] if same else None

    def hash_at(self, revision: str | None) -> str | None:
        """Return DVC's hash of the export at a revision, or None; for None in the work tree."""
        text = show(revision, LOCK) if revision else LOCK.exists() and LOCK.read_text()
        stages = parse_yaml(text, LOCK).get("stages", {}) if text else {}
        outs = stages.get(f"export@{self.run}", {}).get("outs", [])
        return next((str(out["md5"]) for out in outs if out["md5"].endswith(".dir")), None)

    def lacking(self, path: Path, revision: str = "") -> Iterator[str]:
        """Yield an error message if DVC's default remote lacks files of the export.

        ``revision`` is the commit to check; "" is the work tree.
        """
        try:
            with Repo(".") as repo:  # This is the currently configured remote, for any revision.
                name = repo.config["core"].get("remote")
                if not name:
                    yield (
                        "DVC has no default remote for others to get the export from; run `dvc "
                        "remote add --default NAME ADDRESS` and `dvc push`"
                    )
                    return
                revisions = [revision] if revision else None
                used = repo.used_objs([str(path)], revs=revisions, force=True, push=True)
                states = [repo.cloud.status(objects) for objects in used.values()]
        except Exception as error:  # The libraries of remotes have errors of many types.
            yield f"cannot check whether the DVC remote has {path}: {one_line(error)}"
            return
        if count := sum(len(state.new) + len(state.missing) for state in states):
            yield f"{path} is not in the DVC remote {name} ({count} files are missing); `dvc push`"

    def fetch(self, version: str, out: Path) -> None:
        """Fetch the export of a version from DVC's cache or remote, like ``dvc artifacts get``.

        Raises:
            ParamsError: neither has it.
        """
        with _reporting(f"cannot fetch {self.run} {version}"), Repo(".") as repo:
            repo.artifacts.download(self.run, version=version, out=str(out))

    def digest(self, version: str) -> str | None:
        """Return the SHA-256 of a version's export, or None if its release has no lineage."""
        lineage = show(self.versions[version], self.release_folder(version) / LINEAGE)
        return json.loads(lineage)["subject"][0]["digest"]["sha256"] if lineage else None

    def release_folder(self, version: str) -> Path:
        """Return the folder of a version's card, figures and signatures in its commit."""
        return Path("releases", self.run, version)

    def lost_files(self) -> dict[Path, str]:
        """Return the files of earlier releases that HEAD lacks, each with the commit that has it.

        ``dvc exp apply`` of an experiment that is older than a release removes them.
        """
        lost: dict[Path, str] = {}
        for version, commit in self.versions.items():
            command = ("ls-tree", "-r", "--name-only", "--full-tree")
            folder = str(self.release_folder(version))
            released, kept = (
                git(*command, revision, folder).splitlines() for revision in (commit, "HEAD")
            )
            lost |= {Path(name): commit for name in released if name not in kept}
        return lost

    def fetch_release(self, version: str, out: Path) -> None:
        """Fetch the release folder of a version from its commit, independent of the work tree.

        Raises:
            ParamsError: the commit has no such folder, for example if GTO registered the version.
        """
        folder = self.release_folder(version)
        try:
            with files_at(self.versions[version]) as files:
                files.get(folder.as_posix(), str(out), recursive=True)
        except FileNotFoundError:
            raise ParamsError(
                f"{self.run} {version} is not signed: its commit has no {folder}"
            ) from None

    def fetch_head(self, path: Path, out: Path) -> None:
        """Fetch a path of HEAD as other users get it: from DVC's remote, not from the local cache.

        Raises:
            ParamsError: the remote does not have all of it.
        """
        with (
            _reporting(f"cannot fetch {path} from the remote"),
            tempfile.TemporaryDirectory(prefix="albef-cache-") as cache,
            files_at("HEAD", cache={"dir": cache}) as files,
        ):
            files.get(path.as_posix(), str(out), recursive=True)

    def register(self, version: str) -> str:
        """Register HEAD as a version and return the tag."""
        return str(api.register(".", self.run, "HEAD", version=version).tag)

    def assign(self, version: str, stage: str) -> str:
        """Let a version hold a stage and return the tag.

        Raises:
            ParamsError: this machine's clock is behind the last tag.
        """
        self._wait_for_clock()
        # GTO refuses a version that held the stage before, as "already in" it, without force.
        return str(api.assign(".", self.run, stage, version=version, force=True).tag)

    def _wait_for_clock(self) -> None:
        # Tags record time in whole seconds, and the last one counts.
        for last in [event["timestamp"] for event in self._assigned[-1:]]:
            while (ahead := (last - dt.datetime.now(last.tzinfo)).total_seconds()) > -1:
                if ahead > _PATIENCE_S:
                    raise ParamsError(
                        f"the last tag is {ahead:.0f} seconds ahead of this machine's clock and "
                        "would still count as the last; set the clock"
                    )
                time.sleep(0.05)


def check_names(run: str, stage: str) -> None:
    """Raise ParamsError if GTO does not accept one of the names."""
    for name in (run, stage):
        try:
            assert_name_is_valid(name)
        except GTOException:
            raise ParamsError(
                f"{name} is not a valid name in GTO's registry; use letters, digits, - and _, and "
                "begin and end with a letter or digit"
            ) from None


def annotate(run: str, root: Path, export: Path) -> None:
    """Add the export of a run to ``artifacts`` in dvc.yaml, for ``dvc artifacts get``."""
    before = load_yaml(DVC)
    artifacts = before.get("artifacts") or {}
    if run in artifacts:
        if (path := path_at(run, None)) != export:
            raise ParamsError(f"{DVC}: artifacts.{run}.path is {path}, but the export is {export}")
        return
    entry = {"path": f"${{paths.root}}/{export.relative_to(root).as_posix()}", "type": "model"}
    lines = f"  {run}:\n    path: {entry['path']}\n    type: model\n"
    text, head = DVC.read_text(), "\nartifacts:\n"
    text = text.replace(head, head + lines) if head in text else text.rstrip() + "\n" + head + lines
    try:
        understood = parse_yaml(text, DVC) == {**before, "artifacts": {**artifacts, run: entry}}
    except DvcException:  # For example, a key now appears twice.
        understood = False
    if not understood:
        raise ParamsError(
            f"{DVC}: cannot edit `artifacts`; add {run} with path {entry['path']} and type model "
            "there, and commit it"
        )
    DVC.write_text(text)


def path_at(run: str, revision: str | None) -> Path:
    """Return the path of a run's export at a revision or, for None, in the work tree.

    Raises:
        ParamsError: ``artifacts`` of dvc.yaml has no entry for the run.
    """
    missing = _reporting(f"{DVC} has no artifact {run} at {revision or 'the work tree'}")
    with missing, Repo(".", rev=revision) as repo:
        return Path(repo.artifacts.get_path(run))


@contextmanager
def _reporting(message: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # The libraries of remotes have errors of many types.
        raise ParamsError(f"{message}: {one_line(error)}") from None
