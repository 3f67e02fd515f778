"""Facts from headers alone: equal to what the files hold, and a sentence for whatever is broken."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.architecture import FAMILIES
from attar.checkpoint import SIDE_FILES, WEIGHTS, read_facts
from attar.errors import BadInput
from attar.model import Model
from attar.tiny import tiny_model


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_facts_are_what_the_files_hold(tmp_path: Path, model_type: str, tied: bool) -> None:
    folder = tiny_model(tmp_path, model_type, tie_word_embeddings=tied)
    facts = read_facts(folder)
    stored = load_file(folder / WEIGHTS)
    assert {n: tuple(t.shape) for n, t in stored.items()} == {n: f.shape for n, f in facts.tensors().items()}
    assert facts.parameters == sum(t.numel() for t in stored.values())
    assert facts.bytes == sum((folder / n).stat().st_size for n in (*SIDE_FILES, WEIGHTS) if (folder / n).is_file())
    assert facts.bf16_bytes == facts.bytes  # stored in bf16 already


def test_a_config_alone_can_be_planned_with(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    whole = read_facts(folder)
    (folder / WEIGHTS).unlink()
    facts = read_facts(folder)
    assert not facts.stored and facts.tensors() == whole.tensors()


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_materialize_is_the_function_of_the_file(tmp_path: Path, model_type: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path, model_type)
    ids = torch.arange(20)[None]
    ours = Model(folder).materialize(torch.float32)(input_ids=ids).logits
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def cut_in_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:20])


def garble_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 10) + b"not json!!")


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS)


def reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] = torch.ones(7, dtype=torch.bfloat16)
    save_file(tensors, folder / WEIGHTS)


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def garbled_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def foreign_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "not a complete safetensors file"),
        (cut_in_header, "header is cut off"),
        (garble_header, "header is not valid"),
        (drop_tensor, "layers.1.mlp.up_proj.weight"),
        (reshape_tensor, r"model.norm.weight has shape \[7\]"),
        (pickle_only, "only as pickle"),
        (no_config, "has no config.json"),
        (garbled_config, "cannot be read as JSON"),
        (foreign_family, "'mamba' in config.json is not supported"),
    ],
)
def test_damage_is_a_sentence(tmp_path: Path, damage: object, words: str) -> None:
    folder = tiny_model(tmp_path)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(BadInput, match=words) as caught:
        read_facts(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_facts(tmp_path / "nowhere")
