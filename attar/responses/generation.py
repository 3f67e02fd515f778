"""Answers of a model on disk: batches of prompts, padded on the left, decoded with a key/value cache.

Shape suffixes: B prompts of a batch, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from attar.responses.answers import Answer
from attar.responses.chat import Chat
from attar.responses.decoding import Decoding
from attar.responses.prompts import Prompt


def answer_all(
    model: nn.Module,
    chat: Chat,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    batch: int,
    answered: Callable[[Prompt], bool],
    got: Callable[[list[Answer]], None],
) -> None:
    """Answer all prompts, batch by batch, longest first; a batch whose prompts are ``answered`` is left out.

    The batches depend on the prompts alone, so that a process that goes on where another was killed gives the same
    answers: padding changes the rounding of a logit in its last bits.
    """
    tokenized = sorted(((chat.prompt(p.messages), p) for p in prompts), key=lambda pair: (-len(pair[0]), pair[1].key))
    for start in range(0, len(tokenized), batch):
        part = tokenized[start : start + batch]
        if not all(answered(prompt) for _, prompt in part):
            got(answer_batch(model, chat, part, decoding))


@torch.no_grad()
def answer_batch(
    model: nn.Module, chat: Chat, prompts: Sequence[tuple[list[int], Prompt]], decoding: Decoding
) -> list[Answer]:
    """Answers to (token ids, prompt), one batch."""
    device = next(model.parameters()).device
    longest = max(len(ids) for ids, _ in prompts)
    ids_BT = torch.full((len(prompts), longest), chat.end, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, (ids, _) in enumerate(prompts):
        ids_BT[row, longest - len(ids) :] = torch.tensor(ids)
        mask_BT[row, longest - len(ids) :] = 1
    choice = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens, do_sample=False, eos_token_id=chat.stops, pad_token_id=chat.end
    )
    processors = LogitsProcessorList()
    if decoding.temperature > 0:
        processors.append(Sampling(decoding, [prompt.key for _, prompt in prompts]))
    out_BT = model.generate(  # type: ignore[operator]
        input_ids=ids_BT.to(device),
        attention_mask=mask_BT.to(device),
        generation_config=choice,
        logits_processor=processors,
    )
    new = out_BT[:, longest:].tolist()
    return [_answer(chat, prompt, len(ids), tokens) for (ids, prompt), tokens in zip(prompts, new, strict=True)]


def _answer(chat: Chat, prompt: Prompt, asked: int, tokens: list[int]) -> Answer:
    end = next((place for place, token in enumerate(tokens) if token in chat.stops), None)
    said = tokens if end is None else tokens[:end]
    finish = "length" if end is None else "stop"
    return Answer(prompt.key, chat.text(said), finish, asked, len(said) + (end is not None))


class Sampling(LogitsProcessor):  # type: ignore[misc]
    """Makes greedy decoding sample from softmax(logits / T) within the nucleus, each prompt by its own generator.

    The largest of logits plus Gumbel noise is a sample of their softmax; the nucleus is the smallest set of likeliest
    tokens that holds ``top_p`` of the mass (Holtzman et al., arXiv 1904.09751).
    """

    def __init__(self, decoding: Decoding, keys: Sequence[str]) -> None:
        self.decoding = decoding
        self.generators = [torch.Generator().manual_seed(decoding.seed_of(key)) for key in keys]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [B, V] in, logits [B, V] out whose largest is the sampled token."""
        scores_BV = scores.float() / self.decoding.temperature
        if self.decoding.top_p < 1:
            sorted_BV, order_BV = scores_BV.sort(dim=-1, descending=True)
            mass_BV = sorted_BV.softmax(-1)
            outside_BV = mass_BV.cumsum(-1) - mass_BV >= self.decoding.top_p
            scores_BV = scores_BV.masked_fill(outside_BV.scatter(-1, order_BV, outside_BV), float("-inf"))
        noise_BV = torch.stack([torch.rand(scores.shape[1], generator=g) for g in self.generators]).to(scores.device)
        return scores_BV - (-noise_BV.clamp_min(1e-20).log()).log()
