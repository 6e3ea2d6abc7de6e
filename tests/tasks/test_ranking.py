"""Rankings of a split against loops over its images and captions."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from albef.data.record import Record
from albef.loading.reading import stack_images
from albef.tasks.ranking import ranked
from tests.conftest import CAPTIONS, tiny_task


def record(number: int, image_id: int, *captions: str) -> Record:
    return Record(f"r{number}", b"", captions, image_id, "test", "x", {})


ROWS = [
    record(0, 7, "a", "b"),
    record(1, 8, "c"),
    record(2, 7, "d"),  # the same image as the first
    record(3, 9, "e", "f", "g"),
    record(4, 8, "h"),
]
OWNERS = [(row.image_id, caption) for row in ROWS for caption in row.captions]


def rank_of(scores: list[float], right: list[bool]) -> int:
    """Wrong answers that score as high as the best right one, or higher."""
    best = max(score for score, is_right in zip(scores, right, strict=True) if is_right)
    return sum(
        score >= best and not is_right for score, is_right in zip(scores, right, strict=True)
    )


def expected_ranks(sim: Tensor) -> list[int]:
    """Of images, then of captions: all captions and rows of the same image are right."""
    of_images = [
        rank_of(sim[i].tolist(), [owner == row.image_id for owner, _ in OWNERS])
        for i, row in enumerate(ROWS)
    ]
    of_texts = [
        rank_of(sim[:, t].tolist(), [row.image_id == owner for row in ROWS])
        for t, (owner, _) in enumerate(OWNERS)
    ]
    return of_images + of_texts


@pytest.mark.parametrize("seed", range(5))
def test_all_captions_and_rows_of_an_image_are_right_answers(seed: int) -> None:
    sim, scores = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))
    table = ranked(ROWS, sim, 0, lambda pairs: scores)
    assert table["rank"] == table["rank_itc"] == expected_ranks(sim)
    table = ranked(ROWS, sim, None, lambda pairs: scores)
    assert table["rank_itc"] == expected_ranks(sim)
    assert table["rank"] == expected_ranks(scores)


def test_a_split_is_ranked_by_the_images_of_its_records(pictures: list[bytes]) -> None:
    """Rows of the same image, by the features of the model."""
    task = tiny_task(rerank_k=0)
    rows = [
        replace(row, image=pictures[row.image_id % 6], captions=CAPTIONS[i % 4 : i % 4 + 1])
        for i, row in enumerate(ROWS)
    ]
    table = task.predict(rows, 2)
    ids, mask = task.texts([row.captions[0] for row in rows])
    images = task.pixels(stack_images(rows, task.resize))
    with torch.no_grad():
        image_feat = task.model.image_feat(task.model.encode_image(images))
        text_feat = task.model.text_feat(task.model.encode_text(ids, mask))
    sim = image_feat @ text_feat.T
    for query, own in (("i2t", sim), ("t2i", sim.T)):
        ranks = [r for r, q in zip(table["rank"], table["query"], strict=True) if q == query]
        for i, row in enumerate(rows):
            right = [other.image_id == row.image_id for other in rows]
            near = [rank_of((own[i] + noise).tolist(), right) for noise in (0, 1e-6, -1e-6)]
            assert ranks[i] in near
