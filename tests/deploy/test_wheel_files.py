"""The wheel has what type checkers and the lazy import read."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.flows.test_staleness import clone


def test_the_wheel_has_the_types_and_the_list_of_names(tmp_path: Path) -> None:
    clone(tmp_path / "project")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    command += ["--wheel-dir", str(tmp_path), str(tmp_path / "project")]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"albef/py.typed", "albef/__init__.pyi"} <= set(names)
    assert not [name for name in names if name.startswith(("examples/", "tests/"))]
