import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples import search_photos

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path, pictures: list[bytes]) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        (folder / ("more" if i % 2 else "") / f"{i}.png").write_bytes(picture)
    return folder


def test_it_searches_without_torch(tiny_export: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "block/torch").mkdir(parents=True)
    (tmp_path / "block/torch/__init__.py").write_text("raise ImportError('torch is blocked')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'block'}{os.pathsep}{ROOT}"}
    command = [sys.executable, ROOT / "examples/search_photos.py", tiny_export, photos]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert all(line.count(".png") == 3 for line in lines)


def test_only_new_photos_are_embedded(
    tiny_export: Path, photos: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_export), str(photos), "a dog", "-k", "7"]
    search_photos.main(arguments)
    first = capsys.readouterr()
    assert "1/1" in first.err
    search_photos.main(arguments)
    assert capsys.readouterr() == (first.out, "")
    (photos / "new.png").write_bytes(pictures[0])
    search_photos.main(arguments)
    again = capsys.readouterr()
    assert "new.png" in again.out
    assert "1/1" in again.err
