"""Every stage on a tiny random model of every family: the plan is kept, the function is kept, the result reopens."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers.pytorch_utils import Conv1D

from attar import architecture, probe, reopen
from attar.architecture import FAMILIES
from attar.attention import quick_attention
from attar.checkpoint import WEIGHTS, read_facts
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.model import Model, fresh, hf_config, materialize_buffers, skeleton
from attar.packed import PackedLinear
from attar.quality import measure_text
from attar.shape import Shape
from attar.straight_through import put_on_grid
from attar.testing import write_text
from attar.tiny import tiny_model
from attar.training import loss_of
from attar.writer import Writer
from stages.distill_logit import Logit
from stages.distill_qad import Qad
from stages.finetune_full import Full
from stages.finetune_lora import Lora
from stages.finetune_scales import Scales
from stages.prune_width import Width, expand
from stages.quantize_gptq import Gptq
from stages.quantize_rtn import RoundToNearest

LAYERS, FFN = 2, 128
SHORT: dict[str, Any] = {"train_tokens": 256, "batch": 4, "length": 32, "learning_rate": 3e-3, "alpha": 0.5}
HEADLESS = {"gpt2", "gpt_neox", "opt"}  # their configs have no head_dim
TRANSPOSED = {"gpt2"}  # no reader opens its asymmetric grids
Apply = Callable[..., Writer]

READER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTQConfig

exact = GPTQConfig(bits=4, backend="torch")
for folder in map(Path, sys.argv[1:]):
    if "gpt2" in (folder / "config.json").read_text():
        from gptqmodel import BACKEND, GPTQModel
        model = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16).model
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=exact)
    with torch.no_grad():
        found = {"logits": model(torch.arange(0, 128).view(2, 64)).logits.float()}
    for name, module in model.named_modules():
        if hasattr(module, "dequantize_weight"):
            module.scales = module.scales.float()  # otherwise the product is rounded to fp16
            found[name] = module.dequantize_weight().t().contiguous()
    save_file(found, folder.with_suffix(".read"))
assert not any(name.split(".")[0] in ("attar", "stages") for name in sys.modules)
"""

families = pytest.mark.parametrize("family", sorted(FAMILIES))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    write_text(folder / "text.txt")
    return folder


def tiny(home: Path, family: str) -> Path:
    """A model of the family, the same for all tests."""
    folder = home / family
    return folder if folder.exists() else tiny_model(folder, family, num_hidden_layers=LAYERS, intermediate_size=FFN)


@pytest.fixture(scope="module")
def packed(home: Path, apply_here: Apply) -> dict[str, Path]:
    """A folder with a packed model of every family."""
    stages = {family: RoundToNearest(group_size=32, symmetric=family in TRANSPOSED) for family in sorted(FAMILIES)}
    return {family: apply_here(stage, tiny(home, family)).folder for family, stage in stages.items()}


def logits_of(model: Path, folder: Path) -> torch.Tensor:
    """fp32 logits on the probe, opened as the proofs open a folder: a dense one by transformers alone."""
    exchange = folder / "probe.safetensors"
    save_file({"tokens": probe.tokens(512)}, exchange)
    reopen.main(model, exchange)
    return load_file(exchange)["logits"]


def lost(model: Path, origin: Path, home: Path) -> float:
    """Mean KL(origin ‖ model) on text, nats per token."""
    tokenizer = Tokenizer.from_file(str(origin / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode((home / "text.txt").read_text()[:8000]).ids[:1024]).view(-1, 64)
    one, other = (Model(folder).materialize(torch.float32) for folder in (origin, model))
    with torch.no_grad():
        p, q = (module(input_ids=ids).logits.log_softmax(-1) for module in (one, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def silence(folder: Path, axis: architecture.Axis, indices: torch.Tensor, linear: str = "") -> None:
    """Zero all weights of these indices of an axis (or those of one linear) in every layer on disk."""
    config = read_facts(folder).config
    size, tensors = architecture.sizes(config), load_file(folder / WEIGHTS)
    for name, dims in architecture.axes_of_layer(config).items():
        for place, axes in enumerate(dims):
            starts = [sum(size[a] for a in axes[:i]) for i, a in enumerate(axes) if a == axis]
            for start in starts if name.startswith(linear) else ():
                for index in range(LAYERS):
                    tensors[architecture.layer(config, index) + name].index_fill_(place, start + indices, 0)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@families
def test_sliced_equals_masked(family: str, apply_here: Apply, tmp_path: Path) -> None:
    """Channels and attention groups that are masked away are those that go, and the function stays."""
    folder = tiny_model(tmp_path / "masked", family, num_hidden_layers=LAYERS, intermediate_size=FFN)
    facts = read_facts(folder)
    channels = torch.randperm(FFN, generator=torch.Generator().manual_seed(0))[: FFN // 2]
    silence(folder, "ffn", channels)
    groups = 0.0 if family in HEADLESS else 0.5
    if groups:
        silence(folder, "query", expand(torch.tensor([0]), facts, query=True), architecture.family(facts.config).out)
    stage = Width(ffn=0.5, attention=groups, importance="magnitude", compensate=False, windows=1, length=32)
    out = apply_here(stage, folder)
    torch.testing.assert_close(out.probe_logits, logits_of(folder, tmp_path), atol=1e-5, rtol=1e-5)
    assert (out.facts.ffn, out.facts.kv_heads) == (FFN // 2, 1 if groups else facts.kv_heads)


@families
def test_compensation_loses_less(family: str, home: Path, apply_here: Apply) -> None:
    folder = tiny(home, family)
    sliced, refitted = (
        apply_here(Width(ffn=0.5, compensate=compensate, windows=32, length=64), folder).folder
        for compensate in (False, True)
    )
    assert 0 < lost(refitted, folder, home) < lost(sliced, folder, home)


@pytest.mark.parametrize("family", sorted(HEADLESS))
def test_heads_stay_where_the_config_has_no_head_dim(family: str, home: Path) -> None:
    facts = read_facts(tiny(home, family))
    with pytest.raises(BadInput, match=f"{family} model has no head_dim.*can change for gemma2.*qwen3"):
        Width(ffn=0.0, attention=0.5).plan(facts)


@families
def test_a_carved_student_and_a_tuned_model(family: str, home: Path, apply_here: Apply) -> None:
    folder = tiny(home, family)
    carved = apply_here(Logit(keep=[1], **SHORT), folder)
    assert carved.facts.layers == 1
    if family.startswith("gemma"):
        assert carved.facts.config["layer_types"] == ["full_attention"]
    tuned, before = Model(apply_here(Full(**SHORT), folder).folder), Model(folder)
    moved = [name for name in tuned.names if not torch.equal(tuned.tensor(name), before.tensor(name))]
    assert {*architecture.embeddings(before.facts.config), *architecture.norms(before.facts.config)} & set(moved)
    assert len(moved) > len(tuned.names) / 2


@families
def test_a_fresh_student_has_the_shape_and_learns_from_a_cache(family: str, home: Path, apply_here: Apply) -> None:
    """What is drawn computes as what is reopened, in every family, and as many numbers change as its config can say."""
    grouped = {} if family in HEADLESS else {"kv_heads": 1, "head_dim": 8}
    shape = Shape(layers=3, hidden=32, ffn=48, heads=2, **grouped)
    made = apply_here(Logit(student="fresh", shape=shape, cache="hidden", **SHORT), tiny(home, family)).facts
    sizes = (made.layers, made.hidden, made.ffn, made.heads, made.kv_heads, made.head_dim)
    assert sizes == (3, 32, 48, 2, *((2, 16) if family in HEADLESS else (1, 8)))
    drawn = fresh(made.config, torch.bfloat16, "cpu")
    opened = skeleton(hf_config(made.config), torch.bfloat16)
    opened.load_state_dict(drawn.state_dict(), assign=True)
    opened.tie_weights()
    materialize_buffers(opened, "cpu")
    with torch.no_grad():
        one, other = (model(input_ids=probe.tokens(512)).logits for model in (drawn, opened.eval()))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("family", "shape", "words"),
    [
        ("gpt2", {"kv_heads": 2}, "gpt2 model has no kv_heads of its own, it equals heads"),
        ("opt", {"head_dim": 8}, "opt model has no head_dim of its own, it is hidden ÷ heads"),
        ("gpt_neox", {"heads": 3}, "3 heads do not divide the hidden width 64; possible heads: 1, 2, 4, 8"),
        ("gpt_neox", {"hidden": 36}, "head_dim=9 is odd"),
    ],
)
def test_a_shape_that_a_family_cannot_have(family: str, shape: dict[str, int], words: str, home: Path) -> None:
    with pytest.raises(BadInput, match=words):
        Logit(student="fresh", shape=Shape(**shape)).plan(read_facts(tiny(home, family)))


@families
def test_quantized_and_recovered(family: str, home: Path, apply_here: Apply, packed: dict[str, Path]) -> None:
    folder = tiny(home, family)
    facts = read_facts(folder)
    gptq = apply_here(Gptq(group_size=32, windows=32, length=64, symmetric=family in TRANSPOSED), folder)
    assert 0 < lost(gptq.folder, folder, home) < lost(packed[family], folder, home)

    before = Model(packed[family])
    modules = dict(before.materialize(torch.float32).named_modules())
    found = [name for name, module in modules.items() if isinstance(module, PackedLinear)]
    assert len(found) == LAYERS * len(architecture.linears(facts.config))
    assert [name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)] == ["lm_head"]
    opened = dict(modules[""].named_parameters())  # a tied head once
    opened |= {name: held for name, held in modules[""].named_buffers() if name.endswith((".levels", ".zeros"))}
    assert before.facts.opened_bytes(4) == sum(held.nbytes for held in opened.values())
    recovered = Model(apply_here(Scales(**SHORT, scale_learning_rate=1e-3), before.folder).folder)
    learning = Scales().learning(before.facts)
    still = {name for name in before.names if torch.equal(before.tensor(name), recovered.tensor(name))}
    assert not learning & still or learning & still < architecture.norms(facts.config)
    assert before.facts.tensors().keys() - learning <= still


@families
def test_an_adapter_beside_integers_or_in_the_weights(
    family: str, home: Path, apply_here: Apply, packed: dict[str, Path]
) -> None:
    stage, folder = Lora(**SHORT, r=4), tiny(home, family)
    integers, beside = Model(packed[family]), Model(apply_here(stage, packed[family], teacher=folder).folder)
    assert all(torch.equal(beside.tensor(name), integers.tensor(name)) for name in integers.names)
    modules = architecture.linear_modules(beside.facts.config)
    assert len(beside.names) - len(integers.names) == 2 * len(modules) == 2 * len(integers.facts.packed_modules)

    dense, merged = Model(folder), Model(apply_here(stage, folder).folder)
    moved = {name for name in dense.names if not torch.equal(dense.tensor(name), merged.tensor(name))}
    assert set(merged.names) == set(dense.names) and moved == {f"{name}.weight" for name in modules}


@families
def test_learned_on_the_grid(family: str, home: Path, apply_here: Apply, packed: dict[str, Path]) -> None:
    """It starts as what rounding makes, moves integers, and lies on the grid whether packed or dense."""
    folder, rounded = tiny(home, family), Model(packed[family])
    quantization, source = rounded.facts.quantization, Model(folder)
    assert quantization is not None
    student = source.materialize(torch.float32)
    put_on_grid(student, source, quantization, mse=True)
    expected = probe.logits(rounded.materialize(torch.float32), 512)
    torch.testing.assert_close(probe.logits(student, 512), expected, atol=1e-5, rtol=1e-5)

    fast: dict[str, Any] = {**SHORT, "step_learning_rate": 0.4, "scale_learning_rate": 1e-3}
    stage = Qad(**fast, group_size=32, symmetric=quantization.symmetric)
    made = Model(apply_here(stage, folder).folder)
    assert made.facts.tensors() == rounded.facts.tensors()
    integers = [f"{name}.qweight" for name in made.facts.packed_modules]
    assert not any(torch.equal(made.tensor(name), rounded.tensor(name)) for name in integers)

    dense = Model(apply_here(Qad(**fast, output="dense", scales="fixed"), rounded.folder, teacher=folder).folder)
    assert dense.facts.tensors() == source.facts.tensors()
    for index in range(LAYERS):
        for name in architecture.linears(dense.facts.config):
            weight = dense.tensor(f"{architecture.layer(dense.facts.config, index)}{name}.weight")
            groups = (weight.t() if name in architecture.transposed(dense.facts.config) else weight).reshape(-1, 32)
            assert max(len(group.unique()) for group in groups) <= 16


@pytest.fixture(scope="module")
def read(home: Path, packed: dict[str, Path]) -> dict[str, Path]:
    """What transformers with GPTQModel, in a process without Attar, finds in the packed models."""
    environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, "-c", READER, *map(str, packed.values())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    return {family: folder.with_suffix(".read") for family, folder in packed.items()}


@families
def test_a_foreign_reader_finds_our_weights_and_our_function(
    family: str, packed: dict[str, Path], read: dict[str, Path]
) -> None:
    found = load_file(read[family])
    ours = Model(packed[family]).materialize(torch.float32)
    modules = {name: module for name, module in ours.named_modules() if isinstance(module, PackedLinear)}
    assert set(modules) == set(found) - {"logits"}
    for name, module in modules.items():
        assert torch.equal(found[name], module.dequantize(torch.float32)), name
    with torch.no_grad():
        p = ours(input_ids=torch.arange(0, 128).view(2, 64)).logits.log_softmax(-1)
    assert float((p.exp() * (p - found["logits"].log_softmax(-1))).sum(-1).mean()) < 0.002


@families
def test_losses_and_measures_are_the_models_own(family: str, home: Path) -> None:
    """Scaled embeddings, capped logits, windows that slide: all as transformers computes them."""
    model: Any = Model(tiny(home, family)).materialize(torch.float32)
    ids = torch.randint(512, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=ids).loss.double()
    with torch.no_grad(), quick_attention(model, length=40, device="cpu"):
        ours = loss_of(model, None, ids, Full(alpha=0.0)).cross_entropy.double()
        perplexity = measure_text(model, ids, None)[0].perplexity
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(perplexity).double().log(), theirs, atol=1e-5, rtol=1e-5)


def facts_of(**config: Any) -> ModelFacts:
    return ModelFacts(
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512, **config}
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts.*supported: gemma2, gemma3_text"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "an encoder-decoder.*supported: gemma2"),
        ({"model_type": "gemma3", "text_config": {}}, "its text part alone.*Gemma3ForCausalLM.*supported: gemma2"),
        ({"model_type": "opt", "ffn_dim": 128, "word_embed_proj_dim": 32}, "project_in, project_out.*supported: "),
        ({"model_type": "opt", "ffn_dim": 128, "do_layer_norm_before": False}, "do_layer_norm_before=False"),
        (
            {"model_type": "gemma2", "intermediate_size": 128, "use_bidirectional_attention": True},
            "use_bidirectional_attention is on",
        ),
    ],
)
def test_what_cannot_be_handled_is_a_sentence(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        facts_of(**config).tensors()


def test_plan_refuses_what_would_be_another_function(home: Path) -> None:
    facts = read_facts(tiny(home, "gpt2"))
    with pytest.raises(BadInput, match="ties every layer to its place"):
        Logit(keep=1).plan(facts.changed(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(BadInput, match=r"a packed gpt2.*set symmetric=true"):
        RoundToNearest(group_size=32).plan(facts)
    narrow = read_facts(tiny(home, "gemma2")).changed(num_attention_heads=8, num_key_value_heads=4)
    with pytest.raises(BadInput, match=r"6 heads do not divide the hidden width 64.*: 8$"):
        Width(ffn=0.0, attention=0.25).plan(narrow)
