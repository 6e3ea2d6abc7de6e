"""Presets and overrides: how params.yaml comes to hold the values of a run."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError, nearest, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths

PRESETS = Path("presets")
CHANGED = Path(".params.changed.yaml")
"""Where new values stand until the whole file is known to be right."""
CHECKED = Path(".dvc/tmp/albef-checked")
"""Digest of the params file and the code that were found right last."""


def prepare(preset: str | None, overrides: list[str]) -> None:
    """Put a preset and overrides (``key=value``) into params.yaml, and check it.

    params.yaml is written only when the whole file, so changed, is right.

    Raises:
        ParamsError: a wrong value, or a preset that would overwrite what is kept nowhere else.
    """
    if preset is None and not overrides:
        check(PARAMS)
        return
    text = PARAMS.read_bytes() if preset is None else _preset(preset)
    CHANGED.write_bytes(text)
    try:
        if overrides:
            override(CHANGED, overrides)
        check(CHANGED)
        if CHANGED.read_bytes() != PARAMS.read_bytes():
            CHANGED.replace(PARAMS)
    finally:
        CHANGED.unlink(missing_ok=True)


def check(path: Path) -> None:
    """Check a whole params file, in a process: the classes that know its values import torch.

    The same file is not checked twice with the same code.

    Raises:
        ParamsError: a sentence for every wrong value.
    """
    digest = _digest(path)
    if CHECKED.exists() and CHECKED.read_text() == digest:
        return
    command = [sys.executable, "-m", "pipelines.params", str(path), "--name", str(PARAMS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 2:
        raise ParamsError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{PARAMS} cannot be checked:\n{done.stderr.strip()}")
    CHECKED.parent.mkdir(parents=True, exist_ok=True)
    CHECKED.write_text(digest)


def _digest(path: Path) -> str:
    """Of a params file and of the code that reads it."""
    code = (file for name in ("albef", "pipelines") for file in Path(name).rglob("*.py"))
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted(code):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def layout() -> Layout:
    """Where the products of params.yaml lie."""
    paths = read_yaml(PARAMS).get("paths")
    return Layout(validate(Paths, paths, where=str(PARAMS), key="paths"))


def named(folder: Path, name: str, what: str) -> Path:
    """The YAML file of that name in a folder.

    Raises:
        ParamsError: there is none; the error names the nearest.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in files:
        near = nearest(name, list(files))
        raise ParamsError(
            f"there is no {what} {name}"
            + (f"; did you mean {near}?" if near else f"; there are: {', '.join(files) or 'none'}")
        )
    return files[name]


def _preset(name: str) -> bytes:
    """A preset's text, once the present params.yaml is known to be kept elsewhere."""
    chosen = named(PRESETS, name, "preset")
    kept = [path.read_bytes() for path in PRESETS.glob("*.yaml")]
    committed = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True)
    if committed.returncode == 0:
        kept.append(committed.stdout)
    if PARAMS.exists() and PARAMS.read_bytes() not in kept:
        raise ParamsError(
            f"{PARAMS} holds values that neither git nor a preset has, and {chosen} would "
            f"overwrite them; commit it, save it as {PRESETS}/NAME.yaml, or drop the changes with "
            f"`git checkout {PARAMS}`"
        )
    return chosen.read_bytes()


def override(path: Path, overrides: list[str], option: str = "--set") -> None:
    """Change values as ``dvc exp run --set-param`` does, and no other character of the file.

    Args:
        path: of the params file.
        overrides: each ``key=value``.
        option: what errors call them.

    Raises:
        ParamsError: a key that the file lacks, or what is no value.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    before = read_yaml(path)
    for item in overrides:
        key, found, _ = item.partition("=")
        if key.startswith(("+", "~")):  # Hydra's signs for a key to add or to delete
            continue
        if not found:
            raise ParamsError(f"{option} {item}: write it as KEY=VALUE")
        _known(before, key, option)
    text = path.read_text()
    try:
        apply_overrides(path, overrides)
    except DvcException as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise ParamsError(f"{option} {' '.join(overrides)}: {cause}") from None
    after = read_yaml(path)
    path.write_text(text)  # DVC folds long lines; the same change again, without that
    _rewrite(path, dict(_changes(before, after)))


def _known(values: Mapping[str, Any], key: str, option: str) -> None:
    """Refuse a dotted key that the file lacks, naming the nearest."""
    parts = key.split(".")
    here: Any = values
    for depth, part in enumerate(parts):
        if not isinstance(here, Mapping):
            raise ParamsError(f"{option}: {'.'.join(parts[:depth])} is a value, not a section")
        if part not in here:
            near = nearest(part, list(here))
            raise ParamsError(
                f"{option}: {'.'.join(parts[: depth + 1])} is not a known key"
                + (f"; did you mean {'.'.join([*parts[:depth], near])}?" if near else "")
            )
        here = here[part]


_GONE = object()


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What differs between two trees of values: the path of a node and its new value."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, _GONE), after.get(key, _GONE)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() & new.keys():
            yield from _changes(old, new, (*path, key))
        elif type(old) is not type(new) or old != new:
            yield (*path, key), new


def _rewrite(path: Path, changes: Mapping[tuple[str, ...], Any]) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        pass

    def null(representer: Any, _: None) -> Any:
        return representer.represent_scalar("tag:yaml.org,2002:null", "null")

    Representer.add_representer(type(None), null)
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    document = yaml.load(path.read_text())
    for parts, value in changes.items():
        node = document
        for part in parts[:-1]:
            node = node[part]
        if value is _GONE:
            del node[parts[-1]]
        else:
            node[parts[-1]] = _inline(value)
    with path.open("w") as file:
        yaml.dump(document, file)


def _inline(value: Any) -> Any:
    """A mapping in one line, as the file writes a range."""
    from ruamel.yaml.comments import CommentedMap

    if not isinstance(value, dict):
        return value
    node = CommentedMap({key: _inline(item) for key, item in value.items()})
    node.fa.set_flow_style()
    return node
