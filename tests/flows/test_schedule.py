"""What may run at the same time, and what comes first."""

import threading

import pytest

from flows import schedule
from flows.graph import Node
from flows.schedule import Schedule

GRAPH = {"a": (), "b": ("a",), "c": ("a",), "d": ("c",), "e": ("b", "d")}


def scheduled(graph: dict[str, tuple[str, ...]], cores: int, threads: int = 0) -> Schedule:
    nodes = {name: Node(name, above, ()) for name, above in graph.items()}
    return Schedule(nodes, cores, threads)


def test_a_stage_that_more_depend_on_starts_without_a_free_core() -> None:
    stages, started = scheduled(GRAPH, 1), threading.Event()

    def run() -> None:
        stages.start("b")
        started.set()

    stages.start("d")
    waiting = threading.Thread(target=run)
    waiting.start()
    stages.start("a")
    stages.end("a")
    assert not started.is_set()
    stages.end("d")
    stages.start("c")
    stages.end("c")
    waiting.join()
    assert started.is_set()


def test_the_most_needed_stage_starts_first_in_any_order_of_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "_PATIENCE_S", 600.0)
    stages, order = scheduled(GRAPH, 2), list[str]()

    def run(name: str) -> None:
        stages.start(name)
        order.append(name)

    stages.end("a")  # b and c become ready
    less = threading.Thread(target=run, args=["b"])
    less.start()
    run("c")
    less.join()
    assert order == ["c", "b"]


def test_a_stage_that_never_asks_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_PATIENCE_S", 0.0)
    stages = scheduled(GRAPH, 2)
    stages.end("a")
    stages.start("b")  # c never starts


def test_pretraining_takes_the_cores_of_its_threads() -> None:
    graph = {"other": (), "pretrain": (), "finetune": ("pretrain",)}
    beside, alone = scheduled(graph, 3, threads=2), scheduled(graph, 2, threads=2)
    for stages in (beside, alone):
        stages.start("pretrain")
    beside.start("other")
    later = threading.Thread(target=alone.start, args=["other"])
    later.start()
    later.join(0.1)
    assert later.is_alive()
    alone.end("pretrain")
    alone.start("finetune")
    later.join()
