"""Data sets and the sources that they were made from, as steps of a chain."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError
from albef.lineage.project import Project
from albef.lineage.step import LineageError, Step, digest_at, held, read
from albef.lineage.told import Described, Validation, held_to

DESCRIBED = "dataset.json"
_OF_A_SOURCE = ("name", "inputs")


def dataset(
    name: str,
    project: Project | None,
    *,
    folder: Path | None = None,
    digest: str = "",
    told: Mapping[str, Any] | None = None,
) -> Step:
    """The chain of a data set: its index is read and its digest made again.

    Args:
        name: of it.
        project: around it.
        folder: where it lies; None looks where the project keeps it.
        digest: of its records, as its child tells.
        told: what its child tells of it.
    """
    if folder is None and project is not None:
        folder = project.layout.data(name)
    at_hand: dict[str, Any] = {}
    if folder:
        at_hand = held_to(Described, read(folder / DESCRIBED), folder / DESCRIBED)
    found = ""
    if folder and at_hand:
        from albef.data.shards import ShardError, index_digest  # pyarrow, which serving lacks

        try:
            found = index_digest(folder)
        except ShardError as error:
            raise LineageError(str(error)) from None
    digest = digest or str(at_hand.get("digest", ""))
    state = held(digest, found)
    described = at_hand if state == "verified" else (told or {})
    facts = {key: described[key] for key in ("splits", "captions", "licences") if key in described}
    if project and found:
        facts["validation"] = _verdict(project, name, digest)
    root = project.root if project else Path()
    return Step(
        "data set",
        name,
        str(folder or ""),
        digest,
        state,
        found if state == "changed" else "",
        facts,
        record=project.record(
            f"ingest@{name}",
            project.layout.data(name) / DESCRIBED,
            digest_at(folder / DESCRIBED) if folder else "",
        )
        if project and found
        else None,
        origins=tuple(_sources(described.get("sources", []), root)),
    )


def _verdict(project: Project, name: str, digest: str) -> str:
    """What validation says of the very data."""
    path = project.layout.validation(name) / "result.json"
    result = held_to(Validation, read(path), path)
    if not result:
        return "not validated"
    if result.get("digest") != digest:
        return "validated as other data"
    met = sum(bool(check["passed"]) for check in result.get("checks", []))
    word = "valid" if result.get("passed") else "refused"
    return f"{word}, {met} of {len(result.get('checks', []))} expectations met"


def _sources(sources: list[Mapping[str, Any]], root: Path) -> Iterator[Step]:
    for source in sources:
        drawn = _artwork()
        files = tuple(
            Step("file", name, str(path), told, held(told, digest_at(path)))
            for name, told in dict(source.get("inputs", {})).items()
            for path in (drawn.get(name, root / name),)
        )
        facts = {key: value for key, value in source.items() if key not in _OF_A_SOURCE}
        yield Step("source", str(source.get("name", "")), facts=facts, origins=files)


def _artwork() -> dict[str, Path]:
    """The file that built-in sources draw from, by name; none where it is not at hand here."""
    from albef.builtin import openmoji

    try:
        return openmoji.inputs()
    except ParamsError:
        return {}
