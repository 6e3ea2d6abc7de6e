"""Records of a real data set as the page shows them."""

import base64
import io
from pathlib import Path

from PIL import Image

from albef.report.thumbnails import UNSEEN, SplitRecords, data_uri
from tests.data import toy


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_large_images_are_made_small_and_broken_ones_left_out() -> None:
    uri = data_uri(toy.picture(7, size=(1200, 600)))
    assert uri.startswith("data:image/webp;base64,")
    assert decoded(uri).size == (160, 80)
    for broken in (toy.picture(7)[:60], b"<svg onload='alert(1)'/>"):
        assert data_uri(broken) == ""


def test_the_images_of_a_record_stand_in_a_row(tmp_path: Path) -> None:
    large, small, broken = toy.picture(7, size=(320, 100)), toy.picture(9), toy.picture(7)[:60]
    row = decoded(data_uri(large, small, broken))
    assert row.size == (160 + 4 + 40, 50)
    toy.write(tmp_path / "toy", [toy.record(0, more=(small,))])
    thumbnail = SplitRecords(tmp_path / "toy", "train").at(0)
    assert decoded(thumbnail.uri).size == (84, 32)


def test_records_are_found_by_key_with_their_duplicates(tmp_path: Path) -> None:
    metas = [{"noise": "wrong"}, {"noise": "generic"}, {"unseen": True}, {}]
    records = [
        toy.record(i, image_id=i // 2, captions=(f"c{i}",), meta=m) for i, m in enumerate(metas)
    ]
    toy.write(tmp_path / "toy", records)
    found = SplitRecords(tmp_path / "toy", "train")
    assert len(found) == 4
    assert found.same("toy-0000") == {"toy-0000", "toy-0001"}
    assert found.captions("toy-0001") == {"c0", "c1"}
    thumbnail = found.thumbnail("toy-0002")
    assert thumbnail is not None
    assert thumbnail.badges == (UNSEEN,)
    assert found.at(0).badges == ("wrong caption (added noise)",)
    assert found.thumbnail("toy-9999") is None
    assert found.same("toy-9999") == {"toy-9999"}
    assert found.captions("toy-9999") == frozenset()
    found.close()
