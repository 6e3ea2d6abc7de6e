"""The answer decoder of VQA: it generates an answer, scores given ones, or ranks a closed list.

Shapes: B questions, N question tokens, A answers, L answer tokens, D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from albef.models.bert import BertLayer, attention_bias, init_bert_weights
from albef.models.kernels import KeyValue
from albef.models.text import Embeddings, MLMHead, TextConfig
from albef.preprocessing.answers import Floats, Ints, answer_tree, beam_search
from albef.preprocessing.text import TextTokenizer

AT_ONCE = 512
"""Nodes whose likelihoods are computed together; the wide vocabulary limits their number."""


class AnswerDecoder(nn.Module):
    """Causal layers, as many as fusion has, that attend to the fused states of the question.

    Its parts match the fusion encoder, the embeddings and the MLM head and can start from them. Its
    logits use its word embeddings.
    """

    def __init__(self, config: TextConfig, vocab_size: int, pad_id: int = 0) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, vocab_size, pad_id)
        sizes = config.width, config.heads, config.intermediate, config.dropout
        self.layer = nn.ModuleList(
            BertLayer(*sizes, image_width=config.width) for _ in range(config.fusion_depth)
        )
        init_bert_weights(self, config.width)
        self.head = MLMHead(config.width, vocab_size)

    def question_key_values(self, fused_states: Tensor) -> list[KeyValue]:
        """Return keys and values of the attended states (B, N, D) for every layer."""
        return [cast(BertLayer, layer).image_key_value(fused_states) for layer in self.layer]

    def states(
        self, ids: Tensor, mask: Tensor, question: list[KeyValue], question_mask: Tensor
    ) -> Tensor:
        """Return states (A, L, D) of answers, with ids and mask (A, L), to B questions.

        Each token sees itself, earlier tokens and its question, given by its keys and values and
        its mask (B, N). The first A / B answers belong to the first question, and so on.
        """
        length = ids.shape[1]
        visible = torch.ones(length, length, device=ids.device).tril() * mask[:, None, None, :]
        return self._layers(self.embeddings(ids), visible, question, question_mask)

    def tree_states(
        self,
        ids: Tensor,
        positions: Tensor,
        sees: Tensor,
        question: list[KeyValue],
        question_mask: Tensor,
    ) -> Tensor:
        """Return states (B, W, D) of the nodes of a tree of answers, one tree for each question.

        ``ids`` and ``positions`` (B, W) are the token of each node and its position in an answer;
        ``sees`` (B, W, W) are the nodes that each node sees.
        """
        states = self.embeddings(ids, positions)
        return self._layers(states, sees[:, None].to(states.dtype), question, question_mask)

    def _layers(
        self, states: Tensor, visible: Tensor, question: list[KeyValue], question_mask: Tensor
    ) -> Tensor:
        """Compute the layers of embedded answers (A, L, D); ``visible`` (A, 1, L, L) is 0 or 1."""
        bias = (1.0 - visible) * -1e4
        cross = attention_bias(question_mask, bias.dtype)  # (B, 1, 1, N)
        rows = states.shape[0] * states.shape[1] // question_mask.shape[0]
        cross = cross.expand(-1, -1, rows, -1)  # ONNX Runtime does not broadcast over queries
        for layer, key_value in zip(self.layer, question, strict=True):
            states = layer(states, bias, key_value, image_bias=cross)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., D) to logits (..., V)."""
        result: Tensor = self.head(states, self.embeddings.word_embeddings.weight)
        return result

    def forward(
        self, ids: Tensor, mask: Tensor, question: list[KeyValue], question_mask: Tensor
    ) -> Tensor:
        """Return logits (A, L, V) of the token after each; see :meth:`states`."""
        return self.logits(self.states(ids, mask, question, question_mask))


def log_likelihoods(
    decoder: AnswerDecoder,
    ids: Tensor,
    mask: Tensor,
    question: list[KeyValue],
    question_mask: Tensor,
) -> Tensor:
    """Return log-likelihoods (B, K) of answers (B, K, L) to each question, summed over tokens."""
    tree = answer_tree(ids.cpu().numpy(), mask.cpu().numpy())
    tree_ids, depth, sees, nodes = (torch.from_numpy(chunk).to(ids.device) for chunk in tree)
    states = decoder.tree_states(tree_ids, depth, sees, question, question_mask)
    by_token = []
    at_once = max(1, AT_ONCE // states.shape[1])
    for chunk, node, target in zip(
        states.split(at_once), nodes.split(at_once), ids[:, :, 1:].split(at_once), strict=True
    ):
        log_p = torch.log_softmax(decoder.logits(chunk).float(), dim=2)
        row = torch.arange(len(chunk), device=ids.device)[:, None, None]
        by_token.append(log_p[row, node, target])
    return (torch.cat(by_token) * mask[:, :, 1:]).sum(dim=2)


@torch.no_grad()
def rank(
    decoder: AnswerDecoder,
    fused_states: Tensor,
    question_mask: Tensor,
    ids: Tensor,
    mask: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Rank a closed list of C answers for each question.

    The ``k`` answers with the most probable first token are scored in full. A score is the
    log-probability of the first token plus the log-likelihood of the whole answer. The first token
    therefore counts twice, as in the original.

    Args:
        decoder: the model.
        fused_states: (B, N, D) of the questions.
        question_mask: (B, N).
        ids: (C, L) the answers, [CLS] first and [SEP] last.
        mask: (C, L) of the answers.
        k: number of answers that are scored in full; all if there are fewer.

    Returns:
        Indices in the list (B, k), best first, and their probabilities (B, k), which sum to 1.
    """
    count, k = len(fused_states), min(k, len(ids))
    question = decoder.question_key_values(fused_states)
    start = ids[:1, :1].expand(count, 1)
    first = decoder(start, torch.ones_like(start), question, question_mask)[:, 0].float()
    log_first, chosen = torch.log_softmax(first, dim=1)[:, ids[:, 1]].topk(k, dim=1)
    likelihood = log_likelihoods(decoder, ids[chosen], mask[chosen], question, question_mask)
    probabilities = torch.softmax(log_first + likelihood, dim=1)
    best = probabilities.topk(k, dim=1)
    return chosen.gather(1, best.indices), best.values


@torch.no_grad()
def generate(
    decoder: AnswerDecoder,
    fused_states: Tensor,
    question_mask: Tensor,
    tokenizer: TextTokenizer,
    *,
    beams: int,
    max_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Generate an answer of at most ``max_tokens`` to each question (B, N, D), with mask (B, N).

    Returns ids and log-likelihoods of :func:`albef.preprocessing.answers.beam_search`.
    """
    device = fused_states.device
    question = decoder.question_key_values(fused_states)

    def likely(rows: Ints) -> tuple[Floats, Ints]:
        ids = torch.from_numpy(rows).to(device)
        mask = ids.ne(tokenizer.pad_id).long()
        states = decoder.states(ids, mask, question, question_mask)[:, -1]
        log_p = torch.log_softmax(decoder.logits(states).float(), dim=1)
        log_p[:, [tokenizer.pad_id, tokenizer.cls_id]] = -torch.inf
        best = log_p.topk(min(beams, log_p.shape[1]), dim=1)
        return best.values.cpu().numpy(), best.indices.cpu().numpy()

    answers = beam_search(likely, len(fused_states), tokenizer, beams=beams, max_tokens=max_tokens)
    ids, score = (torch.from_numpy(array).to(device) for array in answers)
    return ids, score


def decoder_start(tensors: Mapping[str, Tensor], decoder: AnswerDecoder) -> dict[str, Tensor]:
    """Return initial tensors of a decoder: fusion layers, embeddings and the MLM head.

    ``tensors`` are those of a checkpoint without a decoder. Tensors that do not fit are left out,
    such as the keys and values of images of another width. The names are those in
    ``answer_decoder``, and in ``answer_decoder_m`` for the momentum model.
    """
    start_tensors: dict[str, Tensor] = {}
    shapes = {name: tensor.shape for name, tensor in decoder.state_dict().items()}
    for ours, model, head in (
        ("answer_decoder.", "model.", "mlm_head."),
        ("answer_decoder_m.model.", "model_m.model.", "mlm_head_m.model."),
    ):
        parts = {
            f"{model}text_encoder.embeddings.": f"{ours}embeddings.",
            f"{model}text_encoder.model.embeddings.": f"{ours}embeddings.",
            f"{model}fusion_encoder.layer.": f"{ours}layer.",
            head: f"{ours}head.",
        }
        for name, tensor in tensors.items():
            for start, part in parts.items():
                target = part + name.removeprefix(start)
                shape = shapes.get(target.removeprefix(ours))
                if name.startswith(start) and tensor.shape == shape:
                    start_tensors[target] = tensor
    return start_tensors
