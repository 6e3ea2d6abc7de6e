"""The stages with a ConvNeXt of timm and an XLM-R of transformers, from data to an export."""

from pathlib import Path

import numpy as np
import pytest

from albef.data.shards import Shards
from albef.models.weights import load_checkpoint
from albef.runtime import load
from pipelines import export
from pipelines.stage import Stage
from tests.models.encoders import image, write_xlm_roberta
from tests.pipelines.test_training import ingest_unchecked, step, values, work

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.slow
def test_other_encoders_go_from_data_to_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_xlm_roberta(tmp_path / "text", [*LETTERS], max_position_embeddings=70)
    params = values()
    del params["pretrain"]["tokenizer"]  # that of the folder
    params["pretrain"] |= {"freeze": ["text_encoder.embeddings"]}
    params["pretrain"]["model"] = {
        "image": image("convnext_atto", 64),
        "text": {"transformers": "text", "pretrained": False, "max_positions": 64},
        "fusion": {"depth": 1, "width": 24},
        "embed_dim": 8,
    }
    runs = {name: params["tasks"][name] for name in ("retrieval", "vqa")}
    for run in runs.values():
        run |= {"image_size": 64, "lr": 1e-3}
    params["tasks"], params["export"]["runs"]["retrieval"]["examples"] = runs, 4
    params["export"]["runs"] = {name: params["export"]["runs"][name] for name in runs}
    work(tmp_path, params)
    step("heldout", "scenes")
    for dataset in ("web", "scenes", "questions"):
        ingest_unchecked(dataset)
    step("pretrain")
    for name in runs:
        for stage in ("search", "finetune", "evaluate"):
            step(stage, name)
        export.run(Stage("export", name))

    (tmp_path / "text/config.json").unlink()  # nothing is read from it any more
    assert load_checkpoint(Path("products/models/retrieval")).model.text.max_positions == 64
    split = Shards(Path("products/data/scenes"), "test")
    images, texts = (
        [split[i].image for i in range(3)],
        ["a key", "two frogs", "a dog left of a key"],
    )
    for precision in ("float32", "int8"):
        model = load("products/exports/retrieval", ["CPUExecutionProvider"], precision=precision)
        together = model.embed_text(texts)
        alone = np.concatenate([model.embed_text([text]) for text in texts])
        assert np.allclose(together, alone, atol=1e-4)
        assert len(model.match(images, texts)) == 3
    answered = load("products/exports/vqa").ask(images, ["how many frogs are there"] * 3)
    assert all(answers[0].text for answers in answered)
