"""What quantizing does to a model's facts: which encodings the file format and its readers allow. Torch-free."""

from typing import Any

from attar.architecture import linears, transposed
from attar.errors import BadInput
from attar.facts import ModelFacts

BITS = (4,)
GROUP_SIZES = (16, 32, 64, 128, 256, 512, 1024)  # those that readers of the format have kernels for
PER_WORD = 8  # zero points of 8 outputs share one 32-bit word


def packed_facts(
    facts: ModelFacts, stage: str, bits: int, group_size: int, symmetric: bool, details: dict[str, Any]
) -> ModelFacts:
    """Facts of the model with all linears of its layers packed as GPTQ.

    Args:
        stage: name that begins the sentence when something does not fit.
        details: more keys for ``quantization_config`` that say how the integers were found.

    Raises:
        BadInput: already quantized; bits not supported; a group size or an output width that does not fit; a family
            that no reader would open.
    """
    if facts.quantization is not None:
        found = facts.quantization
        raise BadInput(
            f"{stage}: the model is already quantized to {found.bits} bits with group_size {found.group_size}; "
            "quantize a dense model, so put this stage before the one that quantizes"
        )
    if bits not in BITS:
        raise BadInput(f"{stage}: bits={bits} is not supported; possible: {', '.join(map(str, BITS))}")
    if transposed(facts.config) and not symmetric:
        raise BadInput(
            f"{stage}: a packed {facts.config['model_type']} is opened by GPTQModel's own loader alone (transformers "
            "initializes its Conv1D anew), and that wants symmetric grids; set symmetric=true"
        )
    shapes = linears(facts.config)
    widths = {columns for _, columns in shapes.values()}
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    possible = f"sizes that fit: {', '.join(map(str, fitting))}" if fitting else "no size fits; prune to other widths"
    for name, (rows, columns) in shapes.items():
        if columns % group_size:
            raise BadInput(
                f"{stage}: group_size={group_size} does not divide the {columns} inputs of {name}; {possible}"
            )
        if rows % PER_WORD:
            raise BadInput(f"{stage}: {name} has {rows} outputs; the packed format needs a multiple of {PER_WORD}")
    if group_size not in GROUP_SIZES:
        raise BadInput(f"{stage}: group_size={group_size} is not one that readers of the format know; {possible}")
    return facts.changed(quantization_config=_config(bits, group_size, symmetric, details), dtype="bfloat16")


def _config(bits: int, group_size: int, symmetric: bool, details: dict[str, Any]) -> dict[str, Any]:
    """``quantization_config`` as AutoGPTQ's successors read it; ``meta`` is free text to all of them."""
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "bits": bits,
        "group_size": group_size,
        "sym": symmetric,
        "desc_act": False,  # act-order with static groups leaves the groups in their place
        "static_groups": True,
        "true_sequential": False,
        "lm_head": False,
        "damp_percent": details.get("damping", 0.05),
        "meta": {"quantizer": ["attar"], **details},
    }
