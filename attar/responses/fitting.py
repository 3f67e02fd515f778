"""Trains a student on pairs: cross-entropy on the answers, towards a teacher's distributions there, or both."""

from collections.abc import Sequence

import torch
from torch import nn

from attar.architecture import require_length
from attar.attention import quick_attention
from attar.divergence import HeadLoss
from attar.model import Model
from attar.responses.chat import Chat
from attar.responses.pairs import Pair
from attar.responses.rows import Row, Tokenized, padded, steps_of, tokenize
from attar.training import Surroundings, asked_teacher, learn, loss_of
from attar.training_settings import TrainingSettings


def fit_pairs(
    student: nn.Module,
    source: Model,
    pairs: Sequence[Pair],
    human: Sequence[Pair],
    human_ratio: float,
    settings: TrainingSettings,
    context: Surroundings,
) -> None:
    """Train ``student`` in place; ``source`` lends tokenizer and chat template.

    The prompts are context and never learned. A step reads at most ``settings.batch · settings.length`` tokens, prompts
    and padding included.
    """
    chat = Chat(source.folder)
    generated = _rows(pairs, "pairs", chat, settings, context)
    by_people = _rows(human, "human pairs", chat, settings, context)
    lengths = [len(row.ids) for row in generated], [len(row.ids) for row in by_people]
    tokens = settings.batch * settings.length
    plan = steps_of(*lengths, human_ratio, settings.steps, tokens, context.seed)
    rows = [*generated, *by_people]
    answered = sum(len(rows[i].ids) - rows[i].prompt for step in plan for i in step)
    share = answered / (settings.steps * tokens)
    context.log(f"{len(rows)} pairs; {answered:,} tokens of answers are learned, {share:.0%} of those computed")
    asked = asked_teacher(source, settings, context)
    teacher: nn.Module | None = None
    if asked is not None:
        require_length(asked.facts.config, settings.length, f"length={settings.length} for the teacher {asked.folder}")
        teacher = asked.materialize(context.torch_dtype, context.device).requires_grad_(False)

    def lesson(step: int) -> HeadLoss:
        ids, learned = padded([rows[i] for i in plan[step]])
        ids_BT, learned_BT = torch.from_numpy(ids).to(context.device), torch.from_numpy(learned).to(context.device)
        with quick_attention(student, teacher, length=ids_BT.shape[1], device=context.device):
            return loss_of(student, teacher, ids_BT, settings, learned_BT=learned_BT)

    learn(student, lesson, settings, context)


def _rows(pairs: Sequence[Pair], what: str, chat: Chat, settings: TrainingSettings, context: Surroundings) -> list[Row]:
    if not pairs:
        return []
    found: Tokenized = tokenize(pairs, chat, settings.length)
    for count, fate in ((found.left_out, "left out, their prompts fill it"), (found.cut, "cut off in the answer")):
        if count:
            context.log(
                f"{count} of {len(pairs)} {what} are longer than length={settings.length} tokens and {fate}",
                level="warning",
            )
    return found.rows
