"""Presets and overrides, which set the values of a run in params.yaml."""

import contextlib
import hashlib
import io
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from albef.config import ParamsError, did_you_mean, quoted, read_preset, read_yaml
from albef.io import dying_with_parent, file_digest
from albef.layout import PARAMS, Layout, layout_of, runtime

PRESETS = Path("presets")
CHANGED = Path(f".params.changed-{os.getpid()}.yaml")
"""File that holds new values until the whole file is checked."""
CHECKED = Path(".dvc/tmp/albef-checked")
"""File with the digest of the params file and the code that passed the last check."""
APPLIED = Path(".dvc/tmp/albef-preset.yaml")
"""File with the values that the last applied preset gave, which another preset may replace."""


def prepare(preset: str | None, overrides: Sequence[str]) -> None:
    """Apply a preset and overrides (``key=value``) to params.yaml if the result is valid.

    Raises:
        ParamsError: a value is wrong, or the preset would overwrite values that are saved nowhere
            else.
    """
    with changed(preset, overrides) as path:
        if preset is not None and not overrides:
            APPLIED.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, APPLIED)
        if path.read_bytes() != PARAMS.read_bytes():
            path.replace(PARAMS)


@contextlib.contextmanager
def changed(preset: str | None, overrides: Sequence[str]) -> Iterator[Path]:
    """Yield a file with the values of :func:`prepare`: params.yaml or a temporary copy."""
    if preset is None and not overrides:
        check(PARAMS)
        yield PARAMS
        return
    if preset is None:
        read_yaml(PARAMS)  # Raises an error that names this file, not the copy.
    CHANGED.write_text(PARAMS.read_text() if preset is None else _preset(preset))
    try:
        override(CHANGED, overrides)
        check(CHANGED)
        yield CHANGED
    finally:
        CHANGED.unlink(missing_ok=True)


def check(path: Path) -> None:
    """Check a whole params file and the variables that override its ``runtime``, unless checked.

    Raises:
        ParamsError: there are wrong values; one error message for each.
    """
    if not is_checked(path):
        digest = _digest(path)
        check_files([path], str(path), str(PARAMS))
        CHECKED.parent.mkdir(parents=True, exist_ok=True)
        CHECKED.write_text(digest)
    runtime(read_yaml(path).get("runtime"))


def check_packages(stages: Collection[str]) -> None:
    """Check that the extras that trainings need are installed, before earlier stages run.

    Raises:
        ParamsError: the package of a tracker or of LoRA is missing.
    """
    if not any(stage.startswith(("pretrain", "finetune")) for stage in stages):
        return
    params = read_yaml(PARAMS)
    packages: dict[str, str] = {name: name for name in runtime(params.get("runtime")).trackers}
    trainings = params["pretrain"], *params["tasks"].values()
    if any(training.get("lora") is not None for training in trainings):
        packages["lora"] = "peft"
    for extra, package in packages.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # A folder such as W&B's ./wandb has no origin.
            raise ParamsError(
                f"{extra} needs the package {package}, which is not installed; in a clone, run "
                f"`pip install '.[{extra}]'`, or remove {extra} from {PARAMS}"
            )


def is_checked(path: Path) -> bool:
    """Return whether a params file passed the last check with the same code."""
    return CHECKED.exists() and CHECKED.read_text() == _digest(path)


def check_files(files: Sequence[Path], path: str, shown: str) -> None:
    """Check whole params files in a separate process, because their classes import torch.

    Raises:
        ParamsError: there are wrong values; one error message for each, with ``path`` replaced by
            ``shown``.
        ChildProcessError: the check itself failed or was killed.
    """
    command = [sys.executable, "-m", "pipelines.params", *map(str, files)]
    completed = subprocess.run(dying_with_parent(command), capture_output=True, text=True)
    message = completed.stderr.strip().replace(path, shown)
    if completed.returncode == 2:
        raise ParamsError(message)
    if completed.returncode:
        cause = f"failed:\n{message}"
        if completed.returncode < 0:
            cause = "was killed; if memory is short, end other programs, then run again"
        raise ChildProcessError(f"the check of {shown} {cause}")


def _digest(path: Path) -> str:
    code = (file for name in ("albef", "pipelines") for file in Path(name).rglob("*.py"))
    digests = (f"{file} {file_digest(file)}" for file in sorted(code))
    return hashlib.sha256("\n".join([file_digest(path), *digests]).encode()).hexdigest()


def layout(file: Path = PARAMS) -> Layout:
    """Return the locations of the artifacts of a params file."""
    return layout_of(read_yaml(file), str(PARAMS))


def find_yaml(folder: Path, name: str, kind: str) -> Path:
    """Return the YAML file with this name in a folder.

    Raises:
        ParamsError: it does not exist. The message suggests the nearest name.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise ParamsError(f"there is no {kind} {name}{did_you_mean(name, files)}")
    return files[name]


def file_of(preset: str | None) -> Path:
    """Return the file of a preset; params.yaml for None."""
    return PARAMS if preset is None else find_yaml(PRESETS, preset, "preset")


def compose(preset: Path) -> str:
    """Return a preset as the text of a whole params file: its base with its changes.

    Raises:
        ParamsError: the base is missing or circular, or lacks a dropped key.
    """
    composed, text, base = read_preset(preset), preset.read_text(), read_yaml(preset).get("base")
    if base is None:
        return text
    base_file = preset.parent / f"{base}.yaml"
    changes, base_text = dict(_changes(read_preset(base_file), composed)), compose(base_file)
    return _leading_comment(text) + _with_values(
        base_text.removeprefix(_leading_comment(base_text)), changes
    )


def _leading_comment(text: str) -> str:
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(True)))


def _preset(name: str) -> str:
    """Return the text of a preset, if the current params.yaml is empty or saved elsewhere."""
    text = compose(file_of(name))
    now = PARAMS.read_text() if PARAMS.exists() else ""
    committed = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, text=True)
    applied = APPLIED.read_text() if APPLIED.exists() else ""
    if now.strip() and now not in (text, committed.stdout, applied):
        raise ParamsError(
            f"preset {name} would overwrite changes in {PARAMS}; commit them, save the file as "
            f"{PRESETS}/NAME.yaml, or undo them with `git checkout {PARAMS}`"
        )
    return text


def override(path: Path, overrides: Sequence[str]) -> None:
    """Change or add values in a file; see :func:`overridden`."""
    if overrides:
        path.write_text(overridden(path.read_text(), overrides))


def overridden(text: str, overrides: Sequence[str], option: str = "--set") -> str:
    """Return the text of a params file with changed or added values.

    Each override is ``key=value`` with a YAML value. No other character changes. :func:`check`
    refuses unknown keys; a key with a default may be absent here.

    Raises:
        ParamsError: a value is not valid YAML, or the file lacks the dataset or run.
    """
    yaml, changes = YAML(typ="safe", pure=True), {}
    values = yaml.load(text)
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ParamsError(f"{option} {item}: must be KEY=VALUE")
        _check_key(values, key, option)
        try:
            changes[tuple(key.split("."))] = yaml.load(value)
        except YAMLError as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ParamsError(f"{option} {item}: value is not valid YAML ({problem})") from None
    return _with_values(text, changes)


def _check_key(values: Mapping[str, Any], key: str, option: str) -> None:
    section: Any = values
    parts = key.split(".")
    for depth, part in enumerate(parts):
        parent = ".".join(parts[:depth])
        if not isinstance(section, Mapping):
            raise ParamsError(f"{option} {key}: {parent} is a value, not a section")
        if part not in section and parent in ("datasets", "tasks", "export.runs"):
            hint = did_you_mean(part, section)
            raise ParamsError(f"{option} {key}: there is no {parent}.{part}{hint}")
        section = {} if section.get(part) is None else section[part]


_REMOVED = object()


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the differences between two trees of values: the path of a node and its new value."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, _REMOVED), after.get(key, _REMOVED)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() & new.keys():
            yield from _changes(old, new, (*path, key))
        elif type(old) is not type(new) or old != new:
            yield (*path, key), new


class _Representer(RoundTripRepresenter):
    """Representer that writes null as a word, and repeats a mapping instead of using an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _with_values(text: str, changes: Mapping[tuple[str, ...], Any]) -> str:
    """Return the text of a YAML file with changed values and no other character changed."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    document = yaml.load(text)
    for (*parents, last), value in changes.items():
        node = document
        while parents and node.get(parents[0]):
            node = node[parents.pop(0)]
        while parents:  # The file lacks these sections.
            last, value = parents.pop(), {last: value}
        if value is _REMOVED:
            del node[last]
        else:
            node[last] = _flow_style(value)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _flow_style(value: Any) -> Any:
    """Return a mapping that is written on one line, as the file writes a range."""
    if isinstance(value, list):
        return [_flow_style(item) for item in value]
    if not isinstance(value, dict):
        return quoted(value)
    node = CommentedMap({key: _flow_style(item) for key, item in value.items()})
    node.fa.set_flow_style()
    return node
