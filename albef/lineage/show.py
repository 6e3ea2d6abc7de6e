"""A chain as text for a terminal, and as plain values for machines."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from albef.lineage.step import Record, Step

_DIGITS = 12  # of a digest for a reader
_HOURS = ("core_hours", "gpu_hours")
_CLEAN = {True: "clean", False: "with uncommitted changes"}
_TOLD_VALUES = ("epochs", "lr", "global_batch_size", "precision")


def plain(step: Step) -> dict[str, Any]:
    """A chain as JSON holds it: every digest whole, every value."""
    record = step.record
    return {
        "what": step.what,
        "name": step.name,
        "path": step.path or None,
        "digest": step.digest or None,
        "state": step.state or None,
        "found": step.found or None,
        "facts": dict(step.facts),
        "code": {"digest": step.code[0], "state": step.code[1] or None} if step.code else None,
        "record": {**record.facts, "state": record.own or None} if record else None,
        "origins": [plain(origin) for origin in step.origins],
    }


def text(step: Step, here: Path) -> str:
    """A chain as a tree; what was shown once is not shown again.

    Args:
        step: the first.
        here: folder that paths are shown from.
    """
    return "\n".join(_tree(step, here, set()))


def _tree(step: Step, here: Path, seen: set[tuple[str, str, str]]) -> Iterator[str]:
    where = f"  {_path(step.path, here)}" if step.path and step.what != "file" else ""
    yield f"{step.what} {step.name}{where}"
    key = (step.what, step.name, step.digest)
    if step.origins and key in seen:
        yield "   as above"
        return
    seen.add(key)
    bar = "│  " if step.origins else "   "
    for line in lines(step):
        yield bar + line
    for place, origin in enumerate(step.origins, 1):
        last = place == len(step.origins)
        first, *rest = _tree(origin, here, seen)
        yield ("└─ " if last else "├─ ") + first
        for line in rest:
            yield ("   " if last else "│  ") + line


def _path(path: str, here: Path) -> str:
    full = Path(path).resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)


def lines(step: Step) -> Iterator[str]:
    """What a step says of itself, a line each."""
    if step.digest or step.state:
        yield " ".join(filter(None, [step.digest[:_DIGITS] or "no digest told", _state(step)]))
    yield from facts_of(step)


def facts_of(step: Step) -> Iterator[str]:
    """What a step tells beside its digest, a line each."""
    yield from _facts(step)
    if step.code:
        digest, state = step.code
        words = {"verified": "as at hand", "changed": "the code at hand is another"}
        yield f"code {digest[:_DIGITS]} {words.get(state, 'not here to compare with')}"
    if step.record:
        yield from _made(step.record)


def _state(step: Step) -> str:
    if step.state == "changed" and step.found:
        return f"changed: the one at hand is {step.found[:_DIGITS]}"
    return {"missing": "missing: not here to compare with"}.get(step.state, step.state)


def _facts(step: Step) -> Iterator[str]:
    facts = step.facts
    match step.what:
        case "export":
            files = facts["files"]
            count = sum(map(len, files.values()))
            names = ", ".join(facts["precisions"])
            yield f"{len(files['verified'])} of {count} files verified{names and f'; {names}'}"
            for state in ("changed", "missing"):
                if files[state]:
                    yield f"{state}: {', '.join(files[state])}"
        case "checkpoint":
            values = facts.get("values", {})
            told = {name: values[name] for name in _TOLD_VALUES if name in values}
            told |= {name: facts[name] for name in ("seed", "epoch") if name in facts}
            if told:
                yield _pairs(told)
        case "search":
            if "choice" in facts:
                yield f"chosen: {_pairs(facts['choice'])}" if facts["choice"] else "no ranges"
        case "data set":
            if "splits" in facts:
                splits = ", ".join(f"{count:,} {name}" for name, count in facts["splits"].items())
                yield f"{splits}; {facts.get('captions', 0):,} captions"
            if "validation" in facts:
                yield str(facts["validation"])
            for licence in facts.get("licences", []):
                yield f"licence of {licence.get('what')}: {licence.get('licence')}"
        case _:
            if facts:
                yield _pairs(facts)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "{" + _pairs(value) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _made(record: Record) -> Iterator[str]:
    facts = record.facts
    if record.own == "changed":
        yield f"the run record of {record.stage} is that of another one"
        return
    took = [f"{facts['seconds']:,} s"] if "seconds" in facts else []
    took += [f"{facts[k]:.3g} {k.split('_')[0]} hours" for k in _HOURS if facts.get(k)]
    said = ", ".join([record.stage, str(facts.get("started", "")), *took])
    yield said if record.own else f"{said}; the record does not name its product"
    where = [str(facts["machine"])] if "machine" in facts else []
    where += [f"Python {facts['python']}"] if "python" in facts else []
    git = facts.get("git") or {}
    revision = f"git {str(git.get('revision'))[:_DIGITS]}" if git else "outside git"
    clean = _CLEAN[git["clean"]] if "clean" in git else ""
    yield ", ".join([*where, revision, *([clean] if clean else [])])
