"""Reads what a model folder is from its JSON and safetensors headers: no torch, no tensor bytes."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar import adapter, architecture
from attar.errors import BadInput
from attar.facts import BYTES, DTYPES, ModelFacts
from attar.fingerprint import sha256_file

# Beside the weights, what a runtime reads.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
TOKENIZER_FILES = tuple(n for n in SIDE_FILES if n not in ("config.json", "quantize_config.json"))
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a sentence."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object")
    return value


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name → the safetensors file that holds it, an adapter's included; empty when there are no weights."""
    found = _base_files(folder)
    beside = folder / adapter.WEIGHTS
    return {**found, **dict.fromkeys(header(beside), beside)} if found and beside.is_file() else found


def _base_files(folder: Path) -> dict[str, Path]:
    if (folder / INDEX).is_file():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(_plain(name) for name in places.values()):
            raise BadInput(f"{folder / INDEX} has no usable weight_map")
        found = {str(tensor): folder / name for tensor, name in places.items()}
        return found if any(path.exists() for path in found.values()) else {}
    if (folder / WEIGHTS).is_file():
        return dict.fromkeys(header(folder / WEIGHTS), folder / WEIGHTS)
    return {}


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name → {dtype, shape, data_offsets} of one safetensors file, checked against the file's size."""
    broken = f"{path} is not a complete safetensors file"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > size - 8:
                raise BadInput(f"{broken}: its header is cut off; download or copy it again")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        known = all(entry["dtype"] in BYTES for entry in entries.values())
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise BadInput(f"{broken}: its header is not valid; download or copy it again") from None
    if 8 + length + end != size:
        raise BadInput(
            f"{broken}: {size} bytes where its header promises {8 + length + end}; download or copy it again"
        )
    if not known:
        raise BadInput(f"{path} holds tensors of a dtype other than {', '.join(BYTES)}")
    return entries  # type: ignore[no-any-return]


def read_facts(folder: Path, task: str = "causal-lm", weights: bool = True) -> ModelFacts:
    """Facts of a model folder.

    A folder with a config and no weights gives facts with ``stored=False`` (good for planning). Raises
    :class:`BadInput` when the folder, its config or its weights are missing, broken, pickled or contradict each other.
    With ``weights=False`` those that are there are not looked at: they may be half of a download.
    """
    if not folder.is_dir():
        raise BadInput(f"the model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        raise BadInput(f"the model folder {folder} has no config.json")
    config = read_json(folder / "config.json")
    embedding = architecture.family(config).embedding  # refuses unknown families
    files = weight_files(folder) if weights else {}
    if weights and not files and any(path.suffix in PICKLES for path in folder.iterdir()):
        raise BadInput(
            f"{folder} holds its weights only as pickle, which can run code when opened; "
            "convert it to safetensors with save_pretrained in a place you trust"
        )
    tokenizer = folder / "tokenizer.json"
    facts = ModelFacts(
        config=config,
        task=task,
        tokenizer=sha256_file(tokenizer) if tokenizer.is_file() else None,
        side_bytes=sum((folder / name).stat().st_size for name in SIDE_FILES if (folder / name).is_file()),
        stored=bool(files),
    )
    if facts.dtype not in DTYPES:
        raise BadInput(f"{folder / 'config.json'} names the dtype {facts.dtype!r}; possible: {', '.join(DTYPES)}")
    if not files:
        return facts
    found = {name: entry for path in sorted(set(files.values())) for name, entry in header(path).items()}
    stored = {architecture.canonical(config, name): entry for name, entry in found.items()}
    if embedding in stored:
        names = {code: name for name, code in DTYPES.items()}
        code = stored[embedding]["dtype"]
        if code not in names:
            raise BadInput(f"{folder} stores its weights as {code}; possible: {', '.join(DTYPES.values())}")
        facts = facts.changed(dtype=names[code], torch_dtype=None)
    if (folder / adapter.WEIGHTS).is_file():
        facts = _with_adapter(folder, facts)
    for problem in _contradictions(facts, stored):
        raise BadInput(f"{folder}: {problem}")
    # Headers and index, and no surplus tensor: the reference of a ratio counts what the config asks for.
    overhead = sum(_header_bytes(path) for path in set(files.values()))
    if (folder / INDEX).is_file():
        overhead += (folder / INDEX).stat().st_size
    return replace(facts, side_bytes=facts.side_bytes + overhead)


def _with_adapter(folder: Path, facts: ModelFacts) -> ModelFacts:
    if facts.quantization is None:
        raise BadInput(
            f"{folder} holds a dense model and an adapter beside it; merge the adapter into the weights (peft: "
            "merge_and_unload, then save_pretrained), or remove the folder adapter"
        )
    file = folder / adapter.CONFIG
    dtypes = {name: str(entry["dtype"]) for name, entry in header(folder / adapter.WEIGHTS).items()}
    try:
        found = adapter.read_adapter(read_json(file), dtypes, facts.config)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    return replace(facts, side_bytes=facts.side_bytes + file.stat().st_size, adapter=found)


def stored_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (safetensors dtype, shape) of every tensor that the folder's files really hold."""
    return {
        name: (entry["dtype"], tuple(entry["shape"]))
        for path in sorted(set(weight_files(folder).values()))
        for name, entry in header(path).items()
    }


def _header_bytes(path: Path) -> int:
    with open(path, "rb") as file:
        return int(8 + struct.unpack("<Q", file.read(8))[0])


def _contradictions(facts: ModelFacts, stored: dict[str, dict[str, Any]]) -> Iterator[str]:
    expected = facts.tensors()
    for name, fact in expected.items():
        if name not in stored:
            yield f"config.json asks for a tensor {name} of shape {list(fact.shape)}, the weights do not hold it"
        elif tuple(stored[name]["shape"]) != fact.shape:
            yield f"{name} has shape {stored[name]['shape']}, config.json asks for {list(fact.shape)}"


def _plain(name: Any) -> bool:
    """A bare file name: an index may not point outside its folder."""
    return isinstance(name, str) and name.endswith(".safetensors") and name == Path(name).name
