"""Access of commands to a project's params.yaml and to its runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.config import ParamsError, did_you_mean, read_yaml
from albef.layout import PARAMS, layout_of, runtime

if TYPE_CHECKING:
    from albef.data.shards import Shards


class Project:
    """A project's values, and the ``layout`` of its artifacts."""

    def __init__(self, root: Path = Path()) -> None:
        self._file = root / PARAMS
        self._params = read_yaml(self._file)
        self.layout = layout_of(self._params, str(self._file), root)

    def section(self, run: str) -> dict[str, Any]:
        """Return the values of a run; raise ParamsError if it does not exist."""
        runs: dict[str, dict[str, Any]] = self._params.get("tasks") or {}
        if run not in runs:
            hint = did_you_mean(run, runs)
            raise ParamsError(f"{self._file} has no run {run!r} under tasks{hint}")
        return runs[run]

    def checkpoint(self, run: str) -> Path:
        """Return the folder of a run's checkpoint."""
        self.section(run)
        return self.layout.model(run)

    def shards(self, run: str, split: str) -> "Shards":
        """Return a split of a run's dataset; raise ParamsError if the run names none."""
        # A machine that only serves lacks their dependencies.
        from albef.data.cache import ShardCache
        from albef.data.shards import Shards

        name = self.section(run).get("dataset")
        if not isinstance(name, str):
            raise ParamsError(f"{self._file}: tasks.{run}.dataset must be the name of a dataset")
        cache = ShardCache.of(runtime(self._params.get("runtime")))
        return Shards(self.layout.data(name), split, cache=cache)
