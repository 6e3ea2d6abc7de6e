"""Re-ranking of texts for images, and of answers for questions, against the plain ways.

``python -m benchmarks.ranking`` prints a table in Markdown, at ViT-B/16, BERT-base and 384 pixels.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from albef.config import validate
from albef.models.albef import ALBEF, ModelConfig, resized
from albef.models.decoder import AnswerDecoder, rank
from albef.models.matching import best, match_scores
from benchmarks import reference as plain
from benchmarks.step import PAPER
from benchmarks.timing import alternate, flops, machine, ratio

SIDE = 384
VOCABULARY = PAPER["tokenizer"]["vocab_size"]
IMAGES, CAPTIONS = 1, 256
"""As many captions as the paper re-ranks for an image of COCO."""
CAPTION_TOKENS = (11, 18)
"""Least and most: most captions of COCO have ten words and a few."""
BOTH_IMAGES, BOTH_CAPTIONS, BOTH_SHARE = 6, 30, 2
"""Ranked both ways, five captions an image: of each query one candidate in so many is re-ranked."""
QUESTIONS, ANSWERS, QUESTION_TOKENS, BEST = 2, 512, 9, 128
ANSWER_TOKENS = ((3, 0.55), (4, 0.3), (5, 0.1), (9, 0.05))
"""Lengths with [CLS] and [SEP], and their shares; the longest sets the padding."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.ranking")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one warm-up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sizes = resized(validate(ModelConfig, PAPER["model"], where="benchmark"), SIDE)
    print(f"{machine()}; float32, medians of {options.rounds}\n")
    print("| | plain s | ours s | plain / ours (least to most) | FLOPs ours / plain |")
    print("|---|---|---|---|---|")
    for name, ways in (
        (f"the {CAPTIONS} best captions of an image, {SIDE} px", _reranking(sizes)),
        (
            f"{BOTH_IMAGES} images and {BOTH_CAPTIONS} captions, of each the best 1 in "
            f"{BOTH_SHARE} of the others, {SIDE} px",
            _both_ways(sizes),
        ),
        (f"{QUESTIONS} questions, {BEST} of {ANSWERS} answers", _answers(sizes)),
    ):
        counted = {way: flops(call) for way, call in ways.items()}
        times = alternate(ways, options.rounds)
        slow, fast = (statistics.median(times[way]) for way in ("plain", "ours"))
        share = counted["ours"] / counted["plain"]
        print(
            f"| {name} | {slow:.2f} | {fast:.2f} | {ratio(times['plain'], times['ours'])} "
            f"| {share:.3f} |"
        )


@torch.no_grad()
def _reranking(sizes: ModelConfig) -> dict[str, Callable[[], object]]:
    """All captions of all images, in one direction; encoding the images is in both."""
    model, head, images, states, mask, sim = _drawn(sizes, IMAGES, CAPTIONS)
    pairs = torch.ones(IMAGES, CAPTIONS, dtype=torch.bool)

    def simple() -> Tensor:
        encoded = model.encode_image(images)
        return plain.reranked(model, head, (encoded, states, mask), sim, CAPTIONS)

    return {
        "plain": torch.no_grad()(simple),
        "ours": lambda: match_scores(
            model, head, [model.encode_image(images)], states, mask, pairs
        ),
    }


@torch.no_grad()
def _both_ways(sizes: ModelConfig) -> dict[str, Callable[[], object]]:
    """The plain way scores each direction on its own, ours a pair once for both."""
    model, head, images, states, mask, sim = _drawn(sizes, BOTH_IMAGES, BOTH_CAPTIONS)
    texts_k, images_k = BOTH_CAPTIONS // BOTH_SHARE, BOTH_IMAGES // BOTH_SHARE
    pairs = best(sim, texts_k) | best(sim.t(), images_k).t()

    def simple() -> tuple[Tensor, Tensor]:
        given = model, head, (model.encode_image(images), states, mask)
        by_image = plain.reranked(*given, sim, texts_k)
        return by_image, plain.reranked(*given, sim.t(), images_k, by_text=True)

    return {
        "plain": torch.no_grad()(simple),
        "ours": lambda: match_scores(
            model, head, [model.encode_image(images)], states, mask, pairs
        ),
    }


def _drawn(
    sizes: ModelConfig, count: int, captions: int
) -> tuple[ALBEF, nn.Linear, Tensor, Tensor, Tensor, Tensor]:
    """A model, its head, images, states and mask of captions, and similarities, at random."""
    model = ALBEF(sizes, VOCABULARY).eval()
    least, most = CAPTION_TOKENS
    lengths = torch.randint(least, most + 1, (captions, 1))
    return (
        model,
        nn.Linear(sizes.fused.width, 2),
        torch.randn(count, 3, SIDE, SIDE),
        torch.randn(captions, most, sizes.fused.width),
        (torch.arange(most)[None] < lengths).long(),
        torch.randn(count, captions),
    )


@torch.no_grad()
def _rank_plainly(
    decoder: AnswerDecoder,
    fused_states: Tensor,
    question_mask: Tensor,
    ids: Tensor,
    mask: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """As :func:`albef.models.decoder.rank`, with the question's states ``k`` times."""
    count, k = len(fused_states), min(k, len(ids))
    start = ids[:1, :1].repeat(count, 1)
    question = decoder.question_key_values(fused_states)
    first = decoder(start, torch.ones_like(start), question, question_mask)[:, 0].float()
    log_first, chosen = first.softmax(dim=1)[:, ids[:, 1]].log().topk(k, dim=1)
    answers, answer_mask = ids[chosen.flatten()], mask[chosen.flatten()]
    repeated = fused_states.repeat_interleave(k, dim=0)
    logits = decoder(
        answers,
        answer_mask,
        decoder.question_key_values(repeated),
        question_mask.repeat_interleave(k, dim=0),
    )
    told = logits[:, :-1].float().log_softmax(dim=2).gather(2, answers[:, 1:, None]).squeeze(2)
    likelihood = (told * answer_mask[:, 1:]).sum(dim=1).view(count, k)
    places = (log_first + likelihood).softmax(dim=1).topk(k, dim=1)
    return chosen.gather(1, places.indices), places.values


@torch.no_grad()
def _answers(sizes: ModelConfig) -> dict[str, Callable[[], object]]:
    decoder = AnswerDecoder(sizes.fused, VOCABULARY).eval()
    lengths = torch.tensor(
        [n for n, share in ANSWER_TOKENS for _ in range(round(share * ANSWERS))][:ANSWERS]
    )
    lengths = lengths[torch.randperm(len(lengths))]
    mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
    ids = torch.randint(1000, VOCABULARY, mask.shape)
    ids[:, 0] = 101
    ids.scatter_(1, lengths[:, None] - 1, 102)
    given = (
        decoder,
        torch.randn(QUESTIONS, QUESTION_TOKENS, sizes.fused.width),
        torch.ones(QUESTIONS, QUESTION_TOKENS, dtype=torch.long),
        ids * mask,
        mask,
        BEST,
    )
    return {"plain": lambda: _rank_plainly(*given), "ours": lambda: rank(*given)}


if __name__ == "__main__":
    main()
