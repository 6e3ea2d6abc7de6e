"""``albef data accept NAME``: a data set as it is becomes what later versions are held to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError, nearest, read_yaml
from albef.data.shards import describe
from albef.layout import PARAMS
from albef.validation.drift import accepted_suite
from flows import values

FOLDER = Path("profiles")


def main(name: str, file: Path | None) -> None:
    """Accept, and say so."""
    file, count = accept(name, file)
    print(
        f"{file} holds {count} expectations of {name}; commit it with {PARAMS}. "
        f"validate@{name} holds every later version against it."
    )


def accept(name: str, file: Path | None = None) -> tuple[Path, int]:
    """Write the profile of a data set as a suite, and its path into params.yaml.

    Args:
        name: of the data set.
        file: where to write it, from the root of the project; None chooses.

    Returns:
        The file, and how many expectations it holds.

    Raises:
        ParamsError: no such data set, or its profile is missing or of other data.
        ShardError: the data set is missing.
    """
    named = _named(name)
    profile = _profile(name)
    if file is None:
        file = named or FOLDER / f"{name}.json"
        if named is None and file.exists():
            raise ParamsError(
                f"{file} is there already, and {PARAMS} does not name it: it may be of another "
                f"data set {name}; say --file {file} to overwrite it, or name another file"
            )
    if not file.resolve().is_relative_to(FOLDER.resolve()):
        raise ParamsError(f"{file} is not in {FOLDER}, which validation depends on: name one there")
    text = accepted_suite(profile)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".part")
    beside.write_text(text)
    beside.replace(file)
    if file != named:
        values.override(PARAMS, [f"validate.accepted.{name}={file.as_posix()}"])
    return file, len(json.loads(text)["expectations"])


def _named(name: str) -> Path | None:
    """The accepted profile that params.yaml names for a data set, if any."""
    params = read_yaml(PARAMS)
    datasets = params.get("datasets")
    datasets = datasets if isinstance(datasets, Mapping) else {}
    if name not in datasets:
        near = nearest(name, list(datasets))
        raise ParamsError(
            f"{PARAMS} has no data set {name}; "
            + (f"did you mean {near}?" if near else f"there are: {', '.join(datasets) or 'none'}")
        )
    named = ((params.get("validate") or {}).get("accepted") or {}).get(name)
    return None if named is None else Path(named)


def _profile(name: str) -> dict[str, Any]:
    """The profile of a data set, of the data that are there now."""
    layout = values.layout()
    path = layout.validation(name) / "profile.json"
    remedy = f"run `albef run --only validate@{name}`, whatever it says, and accept it then"
    digest = describe(layout.data(name))["digest"]
    try:
        profile: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: {remedy}") from None
    if profile["digest"] != digest:
        raise ParamsError(f"{path} is the profile of an earlier version of {name}: {remedy}")
    return profile
