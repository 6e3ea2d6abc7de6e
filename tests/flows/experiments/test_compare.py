"""`albef compare` on a real git and DVC repository, whose products are written by hand."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo

from albef.cli import main
from albef.data.record import Record
from albef.io import write_json
from albef.tasks import entailment
from flows.experiments.gather import gather
from pipelines.evaluate import predictions_table
from tests.data import toy
from tests.flows.toy import Toy
from tests.report.test_page import Page

DVC = """
stages:
  made:
    cmd: "true"
    params: [seed, tasks]
    outs: [products/data/toy, products/results/said/predictions.parquet]
    metrics: [{products/metrics/said.json: {cache: false}}]
"""
COUNT = 40


def _records(seed: int = 1) -> list[Record]:
    return [toy.record(seed * 100 + i, key=f"toy-{i}", split="test") for i in range(COUNT)]


def _products(root: Path, right: Sequence[bool], records: Sequence[Record]) -> None:
    shutil.rmtree(root / "products", ignore_errors=True)
    toy.write(root / "products/data/toy", records)
    table: dict[str, list[Any]] = {
        "key": [record.key for record in records],
        "sentence": [record.captions[0] for record in records],
        "answer": ["yes"] * len(records),
        "predicted": ["yes" if good else "no" for good in right],
    }
    (root / "products/results/said").mkdir(parents=True)
    predictions = predictions_table(entailment.Task, {"test": table}, {})
    pq.write_table(predictions, root / "products/results/said/predictions.parquet")
    sections = {"test": {"accuracy": 100 * sum(right) / len(right)}, "chance": {}}
    write_json(root / "products/metrics/said.json", sections)


def _params(root: Path, seed: int = 1, lr: float = 0.1) -> None:
    values = {
        "seed": seed,
        "paths": {"root": "products", "models": "products/models"},
        "datasets": {"toy": {}},
        "tasks": {"said": {"kind": "entailment", "dataset": "toy", "lr": lr}},
    }
    (root / "params.yaml").write_text(json.dumps(values))


def _commit(root: Path, tag: str, *, products: bool = True) -> None:
    if products:
        with Repo(".") as repo:
            repo.commit(force=True)
    Toy(root, root).sh(f"git add -A && git commit -qm {tag} && git tag {tag}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a remote; copy it, do not write to it.

    Tags ``one`` and ``two`` are seeds of the first values, ``better`` and ``better2`` of others.
    """
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        (toy := Toy(root, root)).enter(patch)
        toy.init()
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
        _history(root)
    return root


def _history(root: Path) -> None:
    (root / "dvc.yaml").write_text(DVC)
    (root / ".gitignore").write_text("/products/*\n!/products/metrics/\n/.albef/\n")
    _params(root, lr=0.2)
    _commit(root, "bare", products=False)
    low, high = [i % 2 == 0 for i in range(COUNT)], [i % 8 != 1 for i in range(COUNT)]
    for tag, seed, lr, right in (
        ("one", 1, 0.1, low),
        ("two", 2, 0.1, [*low[:-2], True, True]),
        ("better", 1, 0.3, high),
        ("better2", 2, 0.3, high),
    ):
        _params(root, seed, lr)
        _products(root, right, _records(seed))
        _commit(root, tag)
    _params(root, lr=0.4)
    _products(root, [True] * COUNT, _records()[:-4] + _records(3)[-4:])
    with Repo(".") as repo:
        repo.commit(force=True)
        repo.experiments.save(name="tried", include_untracked=["products/metrics"])
    Toy(root, root).sh("git checkout -qf better")
    with Repo(".") as repo:
        repo.checkout(force=True)


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(made, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def test_two_revisions_side_by_side_where_both_answered(project: Path) -> None:
    it, problems = gather(["one", "better"], 3)
    assert problems == []
    assert [side.subject for side in it.sides] == ["one", "better"]
    assert it.values == {"tasks.said.lr": ("0.1", "0.3")}
    (split,) = it.splits
    assert [metric.values for metric in split.metrics] == [(50.0, 87.5)]
    (test,) = split.paired
    assert (test.shared, test.gained, test.lost, test.difference) == (COUNT, 15, 0, 37.5)
    assert test.interval.low > 0
    assert test.p == 2 / 2**15
    assert test.verdict == "better"
    assert [flip.before for flip in test.better] == ["no"] * 3
    assert all(flip.thumbnail and flip.thumbnail.uri.startswith("data:") for flip in test.better)
    assert it.data == {"toy": True}
    assert not list(Path(".dvc/tmp").glob("compare-*")), "its working files are gone"
    it, _ = gather(["better", "tried"], 0)  # an experiment of other data
    (test,) = it.splits[0].paired
    assert (test.shared, test.of) == (COUNT - 4, COUNT)
    assert it.data == {"toy": False}


def test_seeds_of_the_same_values_are_a_group(project: Path) -> None:
    it, _ = gather(["one", "two", "better", "better2"], 0)
    assert it.groups == ((0, 1), (2, 3))
    assert [side.against for side in it.sides] == [0, 0, 0, 1]
    assert [(test.before, test.after) for test in it.splits[0].paired] == [(0, 2), (1, 3)]
    second, first = it.seeds
    assert (first.spread.mean, second.spread.mean) == (51.25, 87.5)
    assert second.difference == pytest.approx(36.25)  # 37.5 of one seed, 35.0 of the other
    assert second.interval is not None
    assert second.interval.high == pytest.approx(36.25 + 12.7062 * 1.25, abs=1e-3)
    it, _ = gather(["one", "better", "tried"], 0, stepwise=True)
    assert [side.against for side in it.sides] == [0, 0, 1]
    assert [test.after for test in it.splits[0].paired] == [1, 2]


def test_of_many_sides_the_best_is_first_and_p_is_corrected_for_their_number(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    it, _ = gather(["one", "two", "better", "tried"], 0)
    assert [test.after for test in it.splits[0].paired] == [3, 2]
    assert [row.spread.mean for row in it.seeds] == sorted(
        (row.spread.mean for row in it.seeds), reverse=True
    )
    (alone,) = gather(["one", "tried"], 0)[0].splits[0].paired
    assert it.splits[0].paired[0].p == 2 * alone.p
    assert not _command("one", "better", "tried", "two")
    out = capsys.readouterr().out
    assert re.findall(r"accuracy +one -> (\w+)", out) == ["tried", "better", "two"]
    assert "corrected by Holm's method for 2 tests" in out
    assert "corrected by Holm's method for the 2 tests" in Page(_written().read_text()).text


def _written() -> Path:
    (path,) = Path(".albef/compare").glob("*.html")
    return path


def _command(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    return ended.value.code


def test_the_command_prints_a_table_and_writes_a_page(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not _command("one", ".")
    out = capsys.readouterr().out
    assert "+37.50 (+" in out
    assert "+15 −0, p < 0.001" in out
    assert out.endswith("page: .albef/compare/one-vs-workspace.html\n")
    text = Page(Path(".albef/compare/one-vs-workspace.html").read_text()).text
    assert "workspace against one" in text
    assert "newly correct" in text

    Path("docs").mkdir()
    monkeypatch.chdir("docs")
    assert not _command("one", "better", "--out", "x.html")
    assert "better against one" in Page(Path("docs/x.html").read_text()).text


@pytest.mark.usefixtures("project")
def test_what_cannot_be_compared_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ("one", "second revision to compare with one"),
        ("one bettr", "bettr is not an experiment, branch, tag or commit; did you mean"),
        ("one bare", "bare has no metrics; `albef run --name"),
    ):
        assert _command(*arguments.split()) == 2
        said = capsys.readouterr().err
        assert said.startswith("albef compare: ")
        assert message in said
        assert said.count("\n") == 1


def test_what_the_cache_has_lost_is_reported_and_the_rest_is_shown(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = project / ".dvc/cache"
    cache.rename(project / "remote")
    assert _command("one", "better") == 1
    told = capsys.readouterr()
    assert "said  accuracy  one -> better   50.00  87.50" in told.out
    lines = told.err.splitlines()
    assert [line.split()[2] for line in lines] == ["one:", "better:"]
    assert "neither in DVC's cache nor in a remote; run `dvc push`" in lines[0]

    (project / "remote/files").rename(project / "files")
    config = project / ".dvc/config"  # of today, which no commit has
    there = "    remote = there\n['remote \"there\"']\n    url = ..\n"
    config.write_text(config.read_text() + there)
    it, problems = gather(["one", "better"], 2)  # a remote has what the cache has not
    (test,) = it.splits[0].paired
    assert test.gained == 15
    assert problems == []
    it, _ = gather(["two", "better2"], 2)  # of other data than the working tree's
    assert "two: images of toy are not shown" in it.notes[0]
    (project / "products/results/said/predictions.parquet").unlink()
    it, (sentence,) = gather(["one", "."], 2)
    assert it.splits[0].paired == ()
    assert "workspace has metrics of said but no predictions.parquet" in sentence


def _tested(project: Path, tag: str, failing: set[int]) -> None:
    """Commit a revision that has behaviour tests, those at some places failing."""
    rows = [
        {"split": "test", "test": test, "expects": "lower", "key": f"toy-{i}",
         "caption": f"picture number {i}", "changed": f"{test} {i}", "score": 0.9,
         "changed_score": 0.95 if i in failing and test == "count" else 0.1, "least": 0.9,
         "accepted": True, "passed": i not in failing or test != "count", "chance": 0.5}
        for test in ("count", "left_right") for i in range(COUNT)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, project / "products/results/said/behaviour.parquet")
    path = project / "products/metrics/said.json"
    rate = 100 * (1 - len(failing) / COUNT)
    told = {"overall": (rate + 100) / 2, "count": rate, "left_right": 100.0, "accepted": 100.0}
    write_json(path, json.loads(path.read_text()) | {"behaviour": told})
    _commit(project, tag)


def test_behaviour_tests_are_compared_like_metrics(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "dvc.yaml").read_text()
    more = "predictions.parquet, products/results/said/behaviour.parquet"
    (project / "dvc.yaml").write_text(text.replace("predictions.parquet", more))
    _tested(project, "before", set(range(0, COUNT, 2)))
    _tested(project, "after", {0})
    it, problems = gather(["before", "after"], 3)
    assert problems == []
    (split,) = [split for split in it.splits if split.name == "behaviour"]
    assert split.metrics[0].name == "overall"
    overall, count, swapped = split.paired
    assert [test.metric for test in split.paired] == ["overall", "count", "left_right"]
    assert (count.difference, count.gained, count.lost) == (47.5, 19, 0)
    assert (overall.difference, overall.shared) == (23.75, 2 * COUNT)
    assert swapped.equal
    assert overall.better == ()
    flip = count.better[0]
    assert flip.asked.startswith("count ")
    assert flip.before == "0.950, true text 0.900"
    assert not _command("before", "after", "one", "--out", "x.html")
    out = capsys.readouterr().out
    assert "said behaviour count before -> after 50.00 97.50 +47.50 (+" in " ".join(out.split())
    text = Page(Path("x.html").read_text()).text
    assert "said · behaviour count · newly correct" in text


def test_other_code_makes_no_seed_of_another_and_equal_answers_are_equal(project: Path) -> None:
    (project / "albef").mkdir()
    (project / "albef/extra.py").write_text("# changed\n")
    it, _ = gather(["one", "."], 0)
    assert it.sides[1].code == ("albef/extra.py",), "although git does not track it"
    _commit(project, "code", products=False)
    it, _ = gather(["one", "HEAD"], 0)
    assert it.sides[1].code == ("albef/extra.py",)
    it, _ = gather(["one", "one"], 0)
    assert it.splits[0].paired[0].verdict == "equal"
    assert it.values == {}
