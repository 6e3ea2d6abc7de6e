"""Every stage meets a disk that fills up at some write, too little memory, and a clock that jumps:
it ends with the usual bytes or an error message, and then, run again, with the usual bytes."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from albef.io import file_digest
from flows.stages import failure_message
from tests.chaos.conftest import SEED
from tests.chaos.stages import MONTHS, NEEDS_COMPILER, Ended, Stages
from tests.pipelines.test_search import searched
from tests.pipelines.test_training import work

pytestmark = [pytest.mark.chaos, NEEDS_COMPILER]
CHAIN = (
    "heldout scenes", "ingest web", "ingest scenes", "validate web", "validate scenes", "pretrain",
    "search retrieval", "finetune retrieval", "evaluate retrieval", "export retrieval", "report",
)  # fmt: skip
TIMED = ("runs", "logs", "report")  # what tells times
FAULTS = {"disk": 2, "memory": 2, "clock": 0}
"""How often each stage fails."""
# Of a library; the flow says what it may be. SIGALRM is that of a stage that hangs, and 127 that of
# the C library, if it has no memory for a thread's variables.
CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGALRM, 127)
MESSAGES = {"disk": "the disk is full: paths.root (products) has ", "memory": "out of memory ("}


def project(folder: Path) -> Path:
    params = searched()
    runs = params["export"]["runs"]
    params["export"]["runs"] = {"retrieval": runs["retrieval"]}
    params["evaluate"]["behaviour"]["cases"] = 6
    params["runtime"]["checkpoint_every"] = 2
    work(folder, params)
    return folder


def made(folder: Path) -> dict[str, str]:
    """The digests of the artifacts whose bytes are equal in every run."""
    paths = (path for path in (folder / "products").rglob("*") if path.is_file())
    parts = {path.relative_to(folder / "products"): path for path in paths}
    return {str(name): file_digest(p) for name, p in parts.items() if name.parts[0] not in TIMED}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    stages = Stages(tmp_path_factory.mktemp("stages"))
    yield stages
    stages.close()


@pytest.fixture(scope="module")
def whole(stages: Stages) -> dict[str, tuple[int, dict[str, str]]]:
    """By stage, its number of writes and the artifacts after it, where nothing befalls it."""
    folder, told = project(stages.shim.root / "whole"), {}
    for stage in CHAIN:
        stages.shim.fail()
        ended = stages.run(folder, stage)
        assert ended.code == 0, ended.said
        told[stage] = (stages.shim.writes, made(folder))
    return told


def fail(
    stages: Stages, folder: Path, stage: str, fault: str, rng: random.Random, most: int
) -> Ended:
    if fault == "disk":
        at = rng.choice([1, most, rng.randint(1, most), rng.randint(1, most)])
        print(f"{stage}: the disk is full at write {at} of {most}")
        stages.shim.fail(full_at=at)
        return stages.run(folder, stage)
    mib = rng.choice([1, 4, 16, 64, 256])
    print(f"{stage}: {mib} MiB of memory")
    return stages.run(folder, stage, memory=mib * 2**20)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_stage_ends_with_the_usual_artifacts_or_an_error_message(
    stages: Stages, whole: dict[str, tuple[int, dict[str, str]]], fault: str
) -> None:
    rng = random.Random(f"{SEED} {fault}")
    folder = project(stages.shim.root / fault)
    for stage in CHAIN:
        writes, expected = whole[stage]
        before = made(folder)
        for _ in range(FAULTS[fault]):
            ended = fail(stages, folder, stage, fault, rng, writes)
            print(ended.code, ended.said[-300:])
            shown = f"CHAOS_SEED={SEED} {stage}: {ended.said}"
            if ended.code and not (fault == "memory" and ended.code in CRASHES):
                assert ended.code in (2, 74), shown
                assert "Traceback" not in ended.said, shown
                name = stage.replace(" ", "@")
                message = failure_message(name, ended.said.splitlines(), ended.code)
                assert message.startswith(f"{name}: {MESSAGES[fault]}"), shown
            now = made(folder)
            assert {name: now.get(name) for name in before} == before, shown
            for name in now.keys() - before:  # as DVC does before it runs the stage again
                (folder / "products" / name).unlink()
        stages.shim.fail(jump_s=MONTHS * (fault == "clock"))
        ended = stages.run(folder, stage)
        assert ended.code == 0, ended.said
        assert made(folder) == expected, stage
    assert fault == "memory" or not [*folder.rglob("*.part")]
