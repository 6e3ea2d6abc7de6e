"""What products tell of their origin, as far as a chain reads it: shapes that are held to."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from albef.lineage.step import REMEDY, LineageError


class _Told(BaseModel):
    """A mapping in a file; what else stands in it is not looked at."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Source(_Told):
    """A source of a data set."""

    name: str = ""
    kind: str = ""
    inputs: dict[str, str] = {}


class Described(_Told):
    """A data set, by its own file or by what a checkpoint keeps of that."""

    digest: str = ""
    splits: dict[str, int] = {}
    captions: int = 0
    sources: list[Source] = []
    licences: list[dict[str, str]] = []


class Provenance(_Told):
    """Where a checkpoint comes from."""

    dataset: str = ""
    data: str = ""
    parent: str = ""
    parent_weights: str = ""
    parent_provenance: "Provenance | None" = None
    described: Described | None = None
    choice: str = ""
    code: str = ""
    checkpoint: str = ""
    export_code: str = ""
    imported: str = ""
    file: str = ""
    start: dict[str, str] = {}


class Manifest(_Told):
    """An export; of any format."""

    run: str = ""
    files: dict[str, str] = {}
    precisions: list[str] = []
    model: dict[str, Any] = {}
    provenance: Provenance = Provenance()


class Config(_Told):
    """A checkpoint's config.json."""

    kind: str = ""
    values: dict[str, Any] = {}
    provenance: Provenance = Provenance()


class Git(_Told):
    """The state of a work tree."""

    revision: str = ""
    clean: bool | None = None


class Run(_Told):
    """A run record."""

    made: dict[str, str] = {}
    seconds: float = 0.0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    git: Git = Git()


class Check(_Told):
    """One expectation of a validation."""

    passed: bool


class Validation(_Told):
    """The result of a validation."""

    digest: str = ""
    passed: bool = False
    checks: list[Check] = []


def held_to(cls: type[_Told], values: dict[str, Any], path: Path) -> dict[str, Any]:
    """``values`` as they are, once they have the shape of ``cls``.

    Raises:
        LineageError: they have not; it names the file and the first wrong key.
    """
    try:
        cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise LineageError(f"{path}: {key}: {first['msg'].lower()}: {REMEDY}") from None
    return values
