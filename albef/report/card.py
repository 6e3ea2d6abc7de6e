"""The model card of a run: what a model is for, how good, of which data, and where it ends.

Markdown with the front matter that the Hugging Face Hub reads. The card of a run is made of its
products alone; that of a release is the same with figures measured anew and the comparison.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from albef.layout import BEHAVIOUR
from albef.report.card_content import BASELINES, Card, Compared, Dataset, Evaluation


def markdown(card: Card) -> str:
    """The card as a page; equal contents give equal bytes."""
    evaluation = card.evaluation
    form = f"as ONNX in {', '.join(card.precisions)}" if card.precisions else "as a checkpoint"
    tested = bool(card.further) or BEHAVIOUR in card.metrics
    parts = [
        "\n".join(["---", *_front(card), "---"]),
        " ".join(filter(None, [f"# {card.run}", card.version])),
        f"ALBEF, a vision-language model, trained for {card.kind}, {form}. It "
        f"{card.does or 'is of a kind that says nothing of its use'}.",
        "\n".join(_use(card)),
        "It is meant for pictures and texts like those under Data. It is not meant to decide "
        "anything about people.",
        "## Results",
        f"Split `{evaluation.split}` of `{evaluation.dataset}`, {evaluation.records} records"
        f"{'' if evaluation.whole else ', the first ones'}; the metric that counts is "
        f"`{evaluation.primary}`.",
        _table(_results(evaluation, card.metrics)),
        *_other_splits(evaluation, card.metrics),
        *_behaviour(evaluation, card.metrics),
        *(_compared(card.compared, evaluation) if card.compared else ()),
        *_further(card.further),
        "## Data",
        *(_data(dataset) for dataset in card.datasets),
        *_shared(evaluation, card.datasets),
        "## Limits",
        "\n".join(f"- {limit}." for limit in _limits(card, tested)),
        "## Provenance",
        _table([("", ""), *((name, f"`{value}`") for name, value in card.provenance.items())]),
    ]
    return "\n\n".join(parts) + "\n"


def _front(card: Card) -> Iterator[str]:
    """Front matter: YAML, every value as JSON, which is YAML too. It claims no licence."""
    evaluation = card.evaluation
    yield "library_name: albef"
    if card.hub:
        yield f"pipeline_tag: {card.hub}"
    yield f"tags: {json.dumps(['albef', 'vision-language', card.kind, *_onnx(card)])}"
    value = _headline(evaluation)
    if value is None:
        return
    yield "model-index:"
    yield f"- name: {json.dumps(card.run)}"
    yield "  results:"
    yield f"  - task: {{type: {json.dumps(card.hub or card.kind)}}}"
    named = json.dumps(evaluation.dataset)
    split = json.dumps(evaluation.split)
    yield f"    dataset: {{name: {named}, type: {named}, split: {split}}}"
    yield f"    metrics: [{{type: {json.dumps(evaluation.primary)}, value: {value:.4g}}}]"


def _onnx(card: Card) -> tuple[str, ...]:
    return ("onnx",) if card.precisions else ()


def _headline(evaluation: Evaluation) -> float | None:
    """The metric that counts, of the precision that is loaded, or of torch."""
    first = next(iter(evaluation.new.values()), None)
    return (first.metrics if first else evaluation.torch).get(evaluation.primary)


def _use(card: Card) -> Iterator[str]:
    yield "```"
    if card.version:
        yield f"dvc artifacts get ADDRESS {card.run} --rev {card.version}"
        yield f"python -c 'import albef.runtime; model = albef.runtime.load(\"{card.run}\")'"
    elif card.precisions:
        yield "import albef.runtime"
        yield f'model = albef.runtime.load("EXPORT")  # the folder exports/{card.run}'
    else:
        yield "import albef"
        yield f'model = albef.load("CHECKPOINT")  # the folder models/{card.run}'
    yield "```"


def _compared(compared: Compared, evaluation: Evaluation) -> Iterator[str]:
    yield "## Beside the released one"
    yield compared.note
    yield _table([("", "precision", "released", "this", "change", "allowed"), *compared.rows])
    yield f"Times are medians of whole calls, pictures decoded, on {evaluation.machine}."


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
    first = next(iter(evaluation.new.values()), None)
    for name in first.metrics if first else evaluation.torch:
        yield f"`{name}`", *(_number(own.get(name)) for own in columns.values())


def _other_splits(evaluation: Evaluation, metrics: Mapping[str, Any]) -> Iterator[str]:
    """What the run scored in torch on other splits than the export's."""
    chance, blank = metrics.get("chance", {}), metrics.get("random_weights", {})
    for split, values in metrics.items():
        if split in (evaluation.split, BEHAVIOUR, *BASELINES) or not isinstance(values, Mapping):
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
    tests = metrics.get(BEHAVIOUR)
    if not tests:
        return
    columns = {
        "torch": tests,
        **{n: f.behaviour for n, f in evaluation.new.items() if f.behaviour},
        **{n.replace("_", " "): metrics.get(n, {}).get(BEHAVIOUR, {}) for n in BASELINES[:2]},
    }
    yield "## Behaviour tests"
    yield (
        "Of a text that is true of a picture some words are changed, and both are judged "
        "(`docs/behaviour.md`). In percent of the cases, those that do as is expected:"
    )
    rows = ((f"`{t}`", *(_number(own.get(t)) for own in columns.values())) for t in tests)
    yield _table([("test", *columns), *rows])


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
        *([_licence(own) for own in described["licences"]] or ["- licences: none is named"]),
    ]
    return "\n\n".join(lines[:1]) + ("\n\n" + "\n".join(lines[1:]) if lines[1:] else "")


def _licence(entry: Mapping[str, str]) -> str:
    told = ", ".join(filter(None, [entry["licence"], entry.get("attribution")]))
    return f"- {entry['what']}: {told}" + (f" ({entry['url']})" if entry.get("url") else "")


def _shared(evaluation: Evaluation, datasets: Sequence[Dataset]) -> Iterator[str]:
    """How much of the test split was trained on."""
    known = {own.name: own.shared for own in datasets if own.trained and own.shared is not None}
    if known:
        told = ", ".join(f"{len(keys)} by `{name}`" for name, keys in known.items())
        yield (
            f"Of the records of split `{evaluation.split}`, with a picture that is, as the same "
            f"file, in training data: {told}."
        )


def _limits(card: Card, tested: bool) -> Iterator[str]:
    evaluation, reads = card.evaluation, card.reads
    yield (
        f"It was measured on {evaluation.records} records of `{evaluation.dataset}`, and nothing "
        "is known of pictures and texts of another sort"
    )
    side = reads.image_size
    yield (
        f"Every picture is squeezed to {side} x {side} pixels, whatever its shape; what is smaller "
        "than that shows is not seen"
    )
    words = f"{reads.max_words} words and " if reads.max_words else ""
    yield f"Of a text the first {words}{reads.max_tokens} tokens are read"
    if reads.answering is not None and reads.answering.by == "rank":
        yield "It answers from its list alone, also where none of it is right"
    if reads.classes:
        yield f"It always chooses one of {', '.join(reads.classes)}"
    if reads.surface == "grounding":
        yield "Its map is attention alone, without the gradient of Grad-CAM"
    if (gap := _behind(evaluation)) is not None:
        yield gap
    yield (
        "It repeats what the captions it learned from say of things and people, mistakes and "
        "prejudice included"
    )
    if not tested:
        yield "Its behaviour beyond these metrics was not tested"
    if any(own.trained and own.shared is None for own in card.datasets):
        yield "Whether all of its training data are free of test pictures is not known"


def _behind(evaluation: Evaluation) -> str | None:
    """A warning where the model is no better than guessing."""
    value, chance = _headline(evaluation), evaluation.chance.get(evaluation.primary)
    if value is None or chance is None or value > chance:
        return None
    return f"Its `{evaluation.primary}` is no better than guessing: it has learned nothing yet"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _table(rows: Iterable[Sequence[str]]) -> str:
    header, *others = rows
    lines = [header, ["---"] * len(header), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
