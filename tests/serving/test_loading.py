from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import albef
from albef.runtime.sessions import CPU
from albef.serving.loading import load_faster

GPU = "another provider"


class Machine:
    """A machine whose clock shows what providers take for a graph; the CPU computes for all."""

    def __init__(self, export: Path, **seconds: float) -> None:
        self._export, self.seconds, self.now = export, seconds, 0.0
        self.loaded: list[str] = []
        self.options: dict[str, Any] = {}

    def load(self, providers: Sequence[str] | None) -> Any:
        name = "gpu" if providers is None and "gpu" in self.seconds else "cpu"
        model: Any = albef.runtime.load(self._export, [CPU], **self.options)
        run = model.backend.run

        def timed(*graph: Any) -> Any:
            self.now += self.seconds[name]
            return run(*graph)

        model.backend.run, model.backend.providers = timed, [GPU if name == "gpu" else CPU]
        self.loaded.append(name)
        return model

    def choose(self) -> str:
        model = load_faster(self.load, "export", 2, lambda: self.now)
        provider: str = model.backend.providers[0]
        return provider


@pytest.mark.parametrize(("gpu", "cpu", "chosen"), [(2, 1, CPU), (1, 2, GPU)])
def test_a_gpu_is_used_if_it_is_faster_and_the_answer_is_kept(
    tiny_export: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: int,
    cpu: int,
    chosen: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine(tiny_export, gpu=gpu, cpu=cpu)
    assert machine.choose() == chosen
    machine.seconds = {"gpu": cpu, "cpu": gpu}
    assert machine.choose() == chosen
    for options in ({"precision": "int8"}, {"threads": 1}):
        machine.options = options
        assert machine.choose() != chosen
    machine.options = {}
    assert machine.choose() == chosen
    (tmp_path / "albef/providers.json").write_text("[")
    assert machine.choose() != chosen


def test_without_a_gpu_nothing_is_measured(
    tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine(tiny_export, cpu=1)
    assert machine.choose() == CPU
    assert (machine.loaded, machine.now, [*tmp_path.iterdir()]) == (["cpu"], 0, [])
