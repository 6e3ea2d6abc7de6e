"""What the values of a project say to a command that names one of its runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.config import ParamsError, did_you_mean, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths, runtime

if TYPE_CHECKING:
    from albef.data.shards import Shards


def layout_of(params: Mapping[str, Any], root: Path, where: Path) -> Layout:
    """The files of the products of some values, whose project lies in ``root``.

    Raises:
        ParamsError: they name no folders; the file ``where`` they stand is named.
    """
    paths = validate(Paths, params.get("paths"), where=str(where), key="paths")
    return Layout(Paths(root=str(root / paths.root), models=str(root / paths.models)))


class Project:
    """A project's values, and the ``layout`` of its products.

    Raises:
        ParamsError: its params file is missing, damaged, or names no folders.
    """

    def __init__(self, root: Path = Path()) -> None:
        self._file = root / PARAMS
        self._params = read_yaml(self._file)
        self.layout = layout_of(self._params, root, self._file)

    def section(self, run: str) -> dict[str, Any]:
        """The values of a run.

        Raises:
            ParamsError: there is no such run; the nearest is named.
        """
        runs: dict[str, dict[str, Any]] = self._params.get("tasks") or {}
        if run not in runs:
            hint = did_you_mean(run, runs)
            raise ParamsError(f"{self._file} has no run {run!r} under tasks{hint}")
        return runs[run]

    def checkpoint(self, run: str) -> Path:
        """The folder of a run's checkpoint."""
        self.section(run)
        return self.layout.model(run)

    def dataset(self, run: str) -> Path:
        """The folder of a run's data set.

        Raises:
            ParamsError: there is no such run, or it names none.
        """
        name = self.section(run).get("dataset")
        if not isinstance(name, str):
            raise ParamsError(f"{self._file}: tasks.{run}.dataset must name a data set")
        return self.layout.data(name)

    def shards(self, run: str, split: str) -> "Shards":
        """A split of a run's data set."""
        from albef.data.cache import ShardCache  # these need what is not on a machine that serves
        from albef.data.shards import Shards

        cache = ShardCache.of(runtime(self._params.get("runtime")))
        return Shards(self.dataset(run), split, cache=cache)
