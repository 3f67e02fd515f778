"""What quantizing does to a model's facts: which encodings the file format and its readers allow. Torch-free."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import gcd
from typing import Any

from attar.architecture import family, linears, shared_inputs, transposed
from attar.errors import BadInput
from attar.facts import BITS, ModelFacts

GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)  # those that readers of the format have kernels for
FUSED = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj"}  # first of the linears that servers merge → merged name


def packed_facts(
    facts: ModelFacts,
    stage: str,
    bits: int,
    group_size: int,
    symmetric: bool,
    details: Mapping[str, Any],
    bits_of: Mapping[str, int] | None = None,
) -> ModelFacts:
    """Facts of the model with all linears of its layers packed as GPTQ.

    Args:
        stage: name that begins the sentence when something does not fit.
        group_size: -1 makes one group of all inputs.
        details: more keys for ``quantization_config`` that say how the integers were found.
        bits_of: pattern of module names, as in a shell → other bits for them (:func:`choose_bits`).

    Raises:
        BadInput: already quantized; bits not supported; a group size or a width that does not fit; a family that no
            reader would open.
    """
    if facts.quantization is not None:
        found = facts.quantization
        raise BadInput(
            f"{stage}: the model is already quantized to {found.bits} bits with group_size {found.group_size}; "
            "quantize a dense model, so put this stage before the one that quantizes"
        )
    chosen = choose_bits(facts, stage, bits, bits_of or {})
    if transposed(facts.config) and not symmetric:
        raise BadInput(
            f"{stage}: a packed {facts.config['model_type']} is opened by GPTQModel's own loader alone (transformers "
            "initializes its Conv1D anew), and that wants symmetric grids; set symmetric=true"
        )
    shapes = linears(facts.config)
    widths = {columns for _, columns in shapes.values()}
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    possible = f"sizes that fit: {', '.join(map(str, fitting))}"
    if group_size not in GROUP_SIZES:
        raise BadInput(f"{stage}: group_size={group_size} is not one that readers of the format know; {possible}")
    for (_, name), width in chosen.items():
        rows, columns = shapes[name]
        if columns % group_size:
            raise BadInput(
                f"{stage}: group_size={group_size} does not divide the {columns} inputs of {name}; {possible}"
            )
        block = 32 // gcd(width, 32)  # codes that fill whole words together
        for count, what in ((columns, "inputs"), (rows, "outputs")):
            if count % block:
                raise BadInput(
                    f"{stage}: {name} has {count} {what}; the packed format of {width} bits needs a multiple of {block}"
                )
    config = _config(bits, group_size, symmetric, details)
    rules = _rules(facts, bits, chosen)
    if rules:
        config["dynamic"] = rules
    return facts.changed(quantization_config=config, dtype="bfloat16")


def choose_bits(facts: ModelFacts, stage: str, bits: int, bits_of: Mapping[str, int]) -> dict[tuple[int, str], int]:
    """Layer and name within it → bits, for every linear of the layers; the first pattern that matches one decides.

    A pattern is matched against ``layers.N.NAME``, such as ``layers.3.mlp.down_proj``, whatever the family calls its
    list of layers; ``*`` and ``?`` stand for any text and any letter.

    Raises:
        BadInput: bits not supported; a pattern that matches nothing; linears that share their input and that
            servers therefore merge (q, k, v; gate, up) with different bits.
    """
    for number in (bits, *bits_of.values()):
        if number not in BITS:
            raise BadInput(f"{stage}: bits={number} is not supported; possible: {', '.join(map(str, BITS))}")
    chosen: dict[tuple[int, str], int] = {}
    unused = set(bits_of)
    for index in range(facts.layers):
        for name in linears(facts.config):
            fitting = [pattern for pattern in bits_of if fnmatchcase(f"layers.{index}.{name}", pattern)]
            unused -= set(fitting)
            chosen[index, name] = bits_of[fitting[0]] if fitting else bits
        for names in shared_inputs(facts.config):
            found = {name: chosen[index, name] for name in names}
            if len(set(found.values())) > 1:
                raise BadInput(
                    f"{stage}: in layer {index}, bits_of gives {', '.join(f'{n} {b} bits' for n, b in found.items())}; "
                    "servers merge them into one matrix, so give all of them the same bits"
                )
    for pattern in bits_of:
        if pattern in unused:
            first, *others = linears(facts.config)
            raise BadInput(
                f"{stage}: bits_of={pattern!r} matches no linear; their names are layers.N.{first} (also "
                f"{', '.join(others)}), N from 0 to {facts.layers - 1}"
            )
    return chosen


def _rules(facts: ModelFacts, bits: int, chosen: Mapping[tuple[int, str], int]) -> dict[str, dict[str, int]]:
    """``dynamic`` as GPTQModel, vLLM and SGLang read it: regular expression → what differs for the modules it matches.

    The expressions also match the names under which servers merge linears that share an input.
    """
    rules: dict[str, dict[str, int]] = {}
    start = re.escape(f"{family(facts.config).layers}.")
    for names in shared_inputs(facts.config):
        for other in sorted(set(BITS) - {bits}):
            layers = [str(i) for i in range(facts.layers) if chosen[i, names[0]] == other]
            if not layers:
                continue
            parent, dot, first = names[0].rpartition(".")  # OPT's FFN has no parent within the layer
            leaves = [name.rpartition(".")[2] for name in names] + ([FUSED[first]] if first in FUSED else [])
            where = r"\d+" if len(layers) == facts.layers else f"(?:{'|'.join(layers)})"
            rules[f"^{start}{where}\\.{re.escape(parent + dot)}(?:{'|'.join(leaves)})$"] = {"bits": other}
    return rules


def _config(bits: int, group_size: int, symmetric: bool, details: Mapping[str, Any]) -> dict[str, Any]:
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
        # GPTQModel opens asymmetric files only if they say that their zero points are as its own 0.9 writes them.
        "meta": {"quantizer": ["attar", "gptqmodel:0.9.0"], **details},
    }
