"""First-order Taylor importance: what silencing a channel would do to the loss, from gradients and no optimizer.

Shape suffixes: N windows, B windows of a batch, T tokens of a window, I inputs of a linear, G groups of inputs.

With a the input of a linear with weights w and L a window's loss, Σ_o w_oi ∂L/∂w_oi = Σ_t a_ti ∂L/∂a_ti: the gradient
of the activations holds all that the gradient of the weights would say of a channel (Molchanov et al., arXiv
1906.10771; for language models LLM-Pruner, arXiv 2305.11627). So weights stay frozen, no gradient of their size is ever
formed, and the backward costs what a forward costs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attar.attention import quick_attention
from attar.divergence import Objective, Softcaps, head_loss
from attar.model import softcap

LAST = "last"  # name under which the states that enter the head are visited


class Salience:
    """Collects |a · ∂L/∂a|: mean over the tokens of a window, L2 over the windows.

    Args:
        together: name → how many consecutive inputs go or stay together; their products are added first. Default 1.
    """

    def __init__(self, together: Mapping[str, int]) -> None:
        self.together = together
        self._squares: dict[str, Tensor] = {}

    def __call__(self, name: str, products_BTI: Tensor) -> None:
        sums_BTG = products_BTI.reshape(*products_BTI.shape[:2], -1, self.together.get(name, 1)).sum(-1)
        squares_G = sums_BTG.abs().mean(1).square().sum(0)
        self._squares[name] = self._squares[name] + squares_G if name in self._squares else squares_G

    def importance(self, name: str) -> Tensor:
        """[G], in nats per token."""
        return self._squares[name].sqrt()

    def total(self, names: Sequence[str]) -> Tensor:
        """[I], summed over places that the same channels run through."""
        return torch.stack([self.importance(name) for name in names]).sum(0)


def backward(
    model: nn.Module,
    ids_NT: Tensor,
    names: Sequence[str],
    visit: Callable[[str, Tensor], None],
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """One forward and one backward over every window of token ids [n, t], one window at a time.

    ``visit(name, products_BTI)`` gets a · ∂L/∂a, in fp32, for the inputs a of the named modules and, as :data:`LAST`,
    for the states after the final norm; L is the summed next-token loss of the window.

    Memory beside the model: the activations of one window, as autograd keeps them.
    """
    model.requires_grad_(False)
    device = next(model.parameters()).device
    whole: Any = model

    def watch(name: str, a_BTI: Tensor) -> None:
        value = a_BTI.detach()
        a_BTI.register_hook(  # type: ignore[no-untyped-call]
            lambda slope: visit(name, value.float() * slope.float())
        )

    def begin(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        return out.requires_grad_(True)  # weights are frozen: the graph begins here

    handles = [whole.get_input_embeddings().register_forward_hook(begin)]
    for name in names:

        def hook(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            watch(name, args[0])

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    try:
        with quick_attention(model, length=ids_NT.shape[1], device=device.type), torch.enable_grad():
            for done, ids_T in enumerate(ids_NT.to(device)):
                hidden_BTD = whole.base_model(input_ids=ids_T[None], use_cache=False).last_hidden_state
                watch(LAST, hidden_BTD)
                head_VD = whole.get_output_embeddings().weight
                scored = hidden_BTD[:, :-1].flatten(0, 1)
                objective, caps = Objective(alpha=0.0), Softcaps(softcap(model))
                loss = head_loss(scored, head_VD, ids_T[1:], objective, softcaps=caps).loss
                (loss * len(scored)).backward()  # type: ignore[no-untyped-call]
                tick(done + 1, len(ids_NT))
    finally:
        for handle in handles:
            handle.remove()
