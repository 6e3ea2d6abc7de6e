"""Processes that make batches."""

import tempfile
from pathlib import Path

import pytest
import torch

from albef.loading.workers import ahead


def test_tensors_are_handed_over_where_the_temporary_folder_has_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("deep/" * 20)
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    made = list(ahead(lambda i: torch.full((3,), i), range(8), 2))
    assert torch.stack(made)[:, 0].tolist() == [*range(8)]
