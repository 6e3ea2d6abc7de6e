"""What `albef status` says of a stage."""

from flows.status import condense


def test_many_edited_files_of_a_folder_are_one_line() -> None:
    files = [f"albef/models/{name}.py changed" for name in ("albef", "bert", "text", "twin", "vit")]
    others = ["pretrain.lr 0.1 -> 0.2", "products/data of ingest changed", "albef/io.py changed"]
    summary = "albef/models: albef.py, bert.py, text.py and 2 more changed"
    assert list(condense([*files, *others])) == [summary, *others]
    assert list(condense([*others, *files[:3]])) == [*others, *files[:3]]
    assert list(condense([])) == []
