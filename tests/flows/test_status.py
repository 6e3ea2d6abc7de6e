"""What `albef status` says of a stage."""

from flows.status import condense


def test_many_edits_of_a_folder_or_section_are_one_line() -> None:
    files = [f"albef/models/{name}.py changed" for name in ("albef", "bert", "text", "twin", "vit")]
    others = ["pretrain.lr 0.1 -> 0.2", "products/data of ingest changed", "albef/io.py changed"]
    summary = "albef/models: albef.py, bert.py, text.py and 2 more changed"
    assert list(condense([*files, *others])) == [summary, *others]
    assert list(condense([*others, *files[:3]])) == [*others, *files[:3]]
    assert list(condense([])) == []
    values = [f"tasks.vqa.{name} is new: 1" for name in ("kind", "lr", "augment.crop", "epochs")]
    missing = [f"products/{name} is missing" for name in "abcde"]
    assert list(condense([*values, *missing])) == [
        "tasks.vqa: kind, lr, augment.crop and 1 more are new",
        "products: a, b, c and 2 more are missing",
    ]
