"""Presets and overrides: how params.yaml comes to hold the values of a run."""

import contextlib
import hashlib
import io
import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from albef.config import ParamsError, did_you_mean, read_preset, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths

PRESETS = Path("presets")
CHANGED = Path(".params.changed.yaml")
"""Where new values stand until the whole file is known to be right."""
CHECKED = Path(".dvc/tmp/albef-checked")
"""Digest of the params file and the code that were found right last."""


def prepare(preset: str | None, overrides: Sequence[str]) -> None:
    """Put a preset and overrides (``key=value``) into params.yaml, and check it.

    params.yaml is written only when the whole file, so changed, is right.

    Raises:
        ParamsError: a wrong value, or a preset that would overwrite what is kept nowhere else.
    """
    with changed(preset, overrides) as path:
        if path.read_bytes() != PARAMS.read_bytes():
            path.replace(PARAMS)


@contextlib.contextmanager
def changed(preset: str | None, overrides: Sequence[str]) -> Iterator[Path]:
    """The checked values of :func:`prepare` in a file: params.yaml, or a copy for the while."""
    if preset is None and not overrides:
        check(PARAMS)
        yield PARAMS
        return
    CHANGED.write_text(PARAMS.read_text() if preset is None else _preset(preset))
    try:
        override(CHANGED, overrides)
        check(CHANGED)
        yield CHANGED
    finally:
        CHANGED.unlink(missing_ok=True)


def check(path: Path) -> None:
    """Check a whole params file.

    The same file is not checked twice with the same code.

    Raises:
        ParamsError: a sentence for every wrong value.
    """
    digest = _digest(path)
    if CHECKED.exists() and CHECKED.read_text() == digest:
        return
    check_files([path], str(path), str(PARAMS))
    CHECKED.parent.mkdir(parents=True, exist_ok=True)
    CHECKED.write_text(digest)


def check_files(files: Sequence[Path], path: str, shown: str) -> None:
    """Check whole params files, in a process: the classes that know their values import torch.

    Raises:
        ParamsError: a sentence for every wrong value, with ``shown`` in place of ``path``.
    """
    command = [sys.executable, "-m", "pipelines.params", *map(str, files)]
    completed = subprocess.run(command, capture_output=True, text=True)
    said = completed.stderr.strip().replace(path, shown)
    if completed.returncode == 2:
        raise ParamsError(said)
    if completed.returncode:
        raise RuntimeError(f"values cannot be checked:\n{said}")


def _digest(path: Path) -> str:
    """Of a params file and of the code that reads it."""
    code = (file for name in ("albef", "pipelines") for file in Path(name).rglob("*.py"))
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted(code):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def layout(file: Path = PARAMS) -> Layout:
    """Where the products of a params file lie."""
    paths = read_yaml(file).get("paths")
    return Layout(validate(Paths, paths, where=str(PARAMS), key="paths"))


def named(folder: Path, name: str, kind: str) -> Path:
    """The YAML file of that name in a folder.

    Raises:
        ParamsError: there is none; the error names the nearest.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise ParamsError(f"there is no {kind} {name}{did_you_mean(name, files)}")
    return files[name]


def file_of(preset: str | None) -> Path:
    """The file of a preset; params.yaml for None."""
    return PARAMS if preset is None else named(PRESETS, preset, "preset")


def compose(preset: Path) -> str:
    """A preset as the text of a whole params file: that of its base with what it changes.

    Raises:
        ParamsError: a base that is missing or lies on itself, or a dropped key that it lacks.
    """
    composed, text, base = read_preset(preset), preset.read_text(), read_yaml(preset).get("base")
    if base is None:
        return text
    base_file = preset.parent / f"{base}.yaml"
    changes, base_text = dict(_changes(read_preset(base_file), composed)), compose(base_file)
    return _head(text) + _rewritten(base_text.removeprefix(_head(base_text)), changes)


def _head(text: str) -> str:
    """The comment that a file begins with."""
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(True)))


def _preset(name: str) -> str:
    """A preset's whole text, once the present params.yaml is known to be kept elsewhere."""
    text = compose(file_of(name))
    now = PARAMS.read_text() if PARAMS.exists() else text
    committed = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, text=True)
    saved = itertools.chain([text, committed.stdout], map(compose, sorted(PRESETS.glob("*.yaml"))))
    if now not in saved:
        raise ParamsError(
            f"{PARAMS} holds values that neither git nor a preset has, and preset {name} would "
            f"overwrite them; commit it, save it as {PRESETS}/NAME.yaml, or drop the changes with "
            f"`git checkout {PARAMS}`"
        )
    return text


def override(path: Path, overrides: Sequence[str]) -> None:
    """Change or add values in a file; see :func:`overridden`."""
    if overrides:
        read_yaml(path)  # which refuses what is no params file
        path.write_text(overridden(path.read_text(), overrides))


def overridden(text: str, overrides: Sequence[str], option: str = "--set") -> str:
    """A params file with values changed or added, each ``key=value`` as YAML has it, and no other
    character changed.

    Whether a key is known is for :func:`check` to say: one that has a default need not stand there.

    Raises:
        ParamsError: what is no value, or of a data set or run that the file lacks; it names the
            ``option``.
    """
    yaml, changes = YAML(typ="safe"), {}
    values = yaml.load(text)
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ParamsError(f"{option} {item}: write it as KEY=VALUE")
        _check_key(values, key, option)
        try:
            changes[tuple(key.split("."))] = yaml.load(value)
        except YAMLError as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ParamsError(f"{option} {item}: no YAML ({problem})") from None
    return _rewritten(text, changes)


def _check_key(values: Mapping[str, Any], key: str, option: str) -> None:
    section: Any = values
    parts = key.split(".")
    for depth, part in enumerate(parts):
        parent = ".".join(parts[:depth])
        if not isinstance(section, Mapping):
            raise ParamsError(f"{option}: {parent} is a value, not a section")
        if part not in section and parent in ("datasets", "tasks", "export.runs"):
            raise ParamsError(f"{option}: there is no {parent}.{part}{did_you_mean(part, section)}")
        section = {} if section.get(part) is None else section[part]


_MISSING = object()


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What differs between two trees of values: the path of a node and its new value."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, _MISSING), after.get(key, _MISSING)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() & new.keys():
            yield from _changes(old, new, (*path, key))
        elif type(old) is not type(new) or old != new:
            yield (*path, key), new


class _Representer(RoundTripRepresenter):
    """Writes null as a word, and a mapping that stands twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _rewritten(text: str, changes: Mapping[tuple[str, ...], Any]) -> str:
    """The text of a YAML file with other values, and no other character changed."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    document = yaml.load(text)
    for (*parents, last), value in changes.items():
        node = document
        while parents and node.get(parents[0]):
            node = node[parents.pop(0)]
        while parents:  # sections that the file lacks
            last, value = parents.pop(), {last: value}
        if value is _MISSING:
            del node[last]
        else:
            node[last] = _inline(value)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _inline(value: Any) -> Any:
    """A mapping in one line, as the file writes a range."""
    if not isinstance(value, dict):
        return value
    node = CommentedMap({key: _inline(item) for key, item in value.items()})
    node.fa.set_flow_style()
    return node
