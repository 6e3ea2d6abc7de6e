"""Single pictures: each shows and names one thing."""

from collections import Counter

from albef.builtin.describe import true_of
from tests.builtin.drawn import draw, of, scene_of
from tests.builtin.test_describe import parse


def test_images_show_and_name_one_thing() -> None:
    records = draw("pictures")
    for record in records:
        (thing,) = record.meta["objects"]
        assert true_of(parse(record.captions[0]), scene_of(record))
        assert thing["name"] == scene_of(record).groups[0].name
    for split, times in (("train", 10), ("val", 1)):
        names = Counter(record.meta["groups"][0]["name"] for record in of(records, split))
        assert set(names.values()) == {times}


def test_images_have_noise_in_training_only() -> None:
    for record in draw("pictures", caption_noise=1.0):
        true = record.captions[0].endswith(f" {scene_of(record).groups[0].name}")
        assert true == (record.split == "val") == ("noise" not in record.meta)
