"""The model card: what a released export is, how good, of which data, and where it ends."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from albef.layout import BEHAVIOUR
from albef.release.gate import Figures, Row
from albef.runtime.manifest import Facts, Manifest

_USES = {
    "retrieval": "finds pictures by text and texts by picture, and tells whether a picture and a "
    "text belong together (`embed_image`, `embed_text`, `match`)",
    "vqa": "answers questions about a picture (`ask`)",
    "entailment": "tells whether a statement follows from a picture, contradicts it or neither "
    "(`entail`)",
    "nlvr2": "tells whether a statement is true of two pictures together (`compare`)",
    "grounding": "finds in a picture what a text says (`ground`), and tells whether a picture and "
    "a text belong together (`match`)",
}


@dataclass(frozen=True)
class Evaluation:
    """What the figures were measured on.

    Attributes:
        dataset, split, records, digest: of the test data.
        whole: whether these are all records of the split.
        primary: name of the metric that counts.
        new: figures by precision.
        torch: recorded metrics of the same model in torch.
        chance: what guessing would score on the same records.
        machine: where.
    """

    dataset: str
    split: str
    records: int
    digest: str
    whole: bool
    primary: str
    new: Mapping[str, Figures]
    torch: Mapping[str, float]
    chance: Mapping[str, float]
    machine: str


@dataclass(frozen=True)
class Dataset:
    """A data set that the model learned from or was judged on.

    Attributes:
        name: of it.
        role: what it was used for.
        described: its dataset.json, if that is at hand.
    """

    name: str
    role: str
    described: Mapping[str, Any] | None = None


def card(
    manifest: Manifest,
    version: str,
    evaluation: Evaluation,
    metrics: Mapping[str, Any],
    rows: Sequence[Row],
    compared: str,
    datasets: Sequence[Dataset],
    further: Mapping[str, Mapping[str, Mapping[str, float]]],
    provenance: Mapping[str, object],
) -> str:
    """A page of Markdown.

    Args:
        manifest: of the export.
        version: it is released as.
        evaluation: the figures.
        metrics: what the run's evaluation in torch wrote, baselines included.
        rows: what the gate judged.
        compared: a sentence on the released export that it was compared with.
        datasets: of training and test.
        further: other metrics of the run: by what they test, by version, by name.
        provenance: facts by name.
    """
    facts = manifest.model
    names = ", ".join(manifest.precisions)
    tested = bool(further) or BEHAVIOUR in metrics
    parts = [
        f"# {manifest.run} {version}",
        f"ALBEF, a vision-language model, trained for {facts.kind}, as ONNX in {names}. It "
        f"{_USES[facts.kind]}.",
        "\n".join(_use(manifest.run, version)),
        "## Results",
        f"Split `{evaluation.split}` of `{evaluation.dataset}`, {evaluation.records} records; the "
        f"metric that counts is `{evaluation.primary}`.",
        _table(_results(evaluation, metrics)),
        *_other_splits(evaluation, metrics),
        "## Beside the released one",
        compared,
        _table(
            [("", "precision", "released", "this", "change", "allowed"), *(r[:6] for r in rows)]
        ),
        f"Times are medians of whole calls, pictures decoded, on {evaluation.machine}.",
        *_behaviour(evaluation, metrics),
        *_further(further),
        "## Data",
        *(_data(dataset) for dataset in datasets),
        "## Limits",
        "\n".join(f"- {limit}." for limit in _limits(facts, evaluation, tested)),
        "## Provenance",
        _table([("", ""), *((name, f"`{value}`") for name, value in provenance.items())]),
    ]
    return "\n\n".join(parts) + "\n"


def _use(run: str, version: str) -> Iterator[str]:
    yield "```"
    yield f"dvc artifacts get ADDRESS {run} --rev {version}"
    yield f"python -c 'import albef.runtime; model = albef.runtime.load(\"{run}\")'"
    yield "```"


def _results(evaluation: Evaluation, metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Metrics by precision beside what guessing and, of a whole split, the baselines score."""
    baselines = {
        name.replace("_", " "): metrics[name][evaluation.split]
        for name in ("random_weights", "text_only")
        if evaluation.whole and evaluation.split in metrics.get(name, {})
    }
    columns = {
        "torch": evaluation.torch,
        **{name: own.metrics for name, own in evaluation.new.items()},
        "chance": evaluation.chance,
        **baselines,
    }
    yield "metric", *columns
    for name in next(iter(evaluation.new.values())).metrics:
        yield f"`{name}`", *(_number(own.get(name)) for own in columns.values())


def _other_splits(evaluation: Evaluation, metrics: Mapping[str, Any]) -> Iterator[str]:
    """What the run scored in torch on other splits than the export's."""
    chance, blank = metrics.get("chance", {}), metrics.get("random_weights", {})
    for split, values in metrics.items():
        if split in (evaluation.split, BEHAVIOUR, "chance", "random_weights", "text_only"):
            continue
        yield f"Split `{split}`, in torch:"
        yield _table(
            [
                ("metric", "torch", "chance", "random weights"),
                *(
                    (f"`{name}`", *map(_number, (value, *(b.get(split, {}).get(name)
                                                          for b in (chance, blank)))))
                    for name, value in values.items()
                ),
            ]
        )  # fmt: skip


def _behaviour(evaluation: Evaluation, metrics: Mapping[str, Any]) -> Iterator[str]:
    """What a change of the words does: cases that pass, in torch and by precision."""
    if BEHAVIOUR not in metrics:
        return
    columns = {
        "torch": metrics[BEHAVIOUR],
        **{name: own.behaviour for name, own in evaluation.new.items()},
        "chance": metrics.get("chance", {}).get(BEHAVIOUR, {}),
        "random weights": metrics.get("random_weights", {}).get(BEHAVIOUR, {}),
    }
    yield "## Behaviour tests"
    yield (
        "Of a text that is true of a picture some words are changed, and both are judged "
        "(`docs/behaviour.md`). In percent of the cases, those that do as is expected:"
    )
    yield _table(
        [
            ("test", *columns),
            *(
                (f"`{name}`", *(_number(own.get(name)) for own in columns.values()))
                for name in metrics[BEHAVIOUR]
            ),
        ]
    )


def _further(further: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    for name, sides in further.items():
        yield f"## {name.capitalize()}"
        keys = dict.fromkeys(key for side in sides.values() for key in side)
        yield _table(
            [
                ("", *sides),
                *((f"`{k}`", *(_number(side.get(k)) for side in sides.values())) for k in keys),
            ]
        )


def _data(dataset: Dataset) -> str:
    described = dataset.described
    if described is None:
        return f"**{dataset.name}**, {dataset.role}."
    splits = ", ".join(f"{count} {name}" for name, count in described["splits"].items())
    kinds = ", ".join(dict.fromkeys(str(own.get("kind")) for own in described["sources"]))
    lines = [
        f"**{dataset.name}**, {dataset.role}: {splits}"
        + (f"; made by {kinds}" if kinds else "")
        + f"; SHA-256 `{described['digest']}`.",
        *(
            f"- {licence['what']}: {licence['licence']}, {licence['attribution']} "
            f"({licence['url']})"
            for licence in described["licences"]
        ),
    ]
    return "\n\n".join(lines[:1]) + ("\n\n" + "\n".join(lines[1:]) if lines[1:] else "")


def _limits(facts: Facts, evaluation: Evaluation, tested: bool) -> Iterator[str]:
    yield (
        f"It was measured on {evaluation.records} records of `{evaluation.dataset}`, and nothing "
        "is known of pictures and texts of another sort"
    )
    side = facts.image_size
    yield (
        f"Every picture is squeezed to {side} x {side} pixels, whatever its shape; what is smaller "
        "than that shows is not seen"
    )
    yield f"Of a text the first {facts.max_words} words and {facts.max_tokens} tokens are read"
    if facts.answering is not None and facts.answering.by == "rank":
        yield "It answers from its list alone, also where none of it is right"
    if facts.classes:
        yield f"It always chooses one of {', '.join(facts.classes)}"
    if facts.kind == "grounding":
        yield "Its map is attention alone, without the gradient of Grad-CAM"
    yield (
        "It repeats what the captions it learned from say of things and people, mistakes and "
        "prejudice included"
    )
    if not tested:
        yield (
            "Neither its behaviour beyond these metrics nor an overlap of training and test data "
            "was tested"
        )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _table(rows: Iterable[Sequence[str]]) -> str:
    header, *others = rows
    lines = [header, ["---"] * len(header), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
