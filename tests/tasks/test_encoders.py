"""Every kind of run with encoders of timm and transformers."""

from pathlib import Path

import pytest

from tests.models.encoders import image, text
from tests.tasks import test_contract as contract
from tests.tasks.test_contract import RUNS, pretrained, saved

pytestmark = pytest.mark.slow
MODEL = {
    "image": image("swin_tiny_patch4_window7_224", 48),
    "text": text("xlm-roberta", vocab_size=90, max_position_embeddings=70) | {"max_positions": 64},
    "fusion": {"depth": 3, "width": 24, "heads": 2},
    "embed_dim": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("encoders"), pretrained(model=MODEL))


@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_every_kind_goes_through_the_contract(run: str, folder: Path) -> None:
    contract.test_one_step_predict_score_save_and_load(run, folder)
