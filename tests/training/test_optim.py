"""What is decayed."""

from albef.training.optim import adamw
from tests.conftest import tiny_task


def test_biases_and_norms_are_not_decayed_and_the_temperature_is_as_in_the_original() -> None:
    task = tiny_task()
    names = {id(p): name for name, p in task.named_parameters()}
    decayed, plain = (
        {names[id(p)] for p in group["params"]} for group in adamw(task, 1e-3, 0.02).param_groups
    )
    assert {"temperature", "model.image_encoder.vit.cls_token"} <= decayed
    assert "model.text_encoder.embeddings.word_embeddings.weight" in decayed
    assert all(name.endswith("bias") or "norm" in name.lower() for name in plain)
    assert not any(name.startswith("model_m") for name in decayed | plain)
