"""The code that opens a model's folder, for each kind of folder that stages make: dense, GPTQ, with an adapter."""

from dataclasses import dataclass
from pathlib import Path

from attar import adapter
from attar.checkpoint import read_facts
from attar.facts import ModelFacts

GPTQ = "pip install 'gptqmodel>=7.6,<8' 'optimum>=2'"  # as in the extra gptq of pyproject.toml
PEFT = "pip install 'peft>=0.21'"


@dataclass(frozen=True)
class Loading:
    """How a model is opened."""

    needs: str  # a command; empty where transformers is enough
    code: str  # Python that runs in the model's folder and leaves ``model``
    notes: tuple[str, ...] = ()


def loading(folder: Path) -> Loading:
    """How the model in this folder is opened."""
    facts = read_facts(folder)
    tokenizer = (folder / "tokenizer.json").is_file()
    chats = tokenizer and (folder / "chat_template.jinja").is_file()
    mixed = facts.quantization is not None and bool(facts.quantization.others)
    lines = _open_mixed(facts) if mixed else _open()
    if facts.adapter is not None:
        lines = [*lines[:1], "from peft import PeftModel", *lines[1:]]
        lines.append(f'model = PeftModel.from_pretrained(model, f"{{folder}}/{adapter.FOLDER}")')
    if tokenizer:
        lines = [_with_tokenizer(line) for line in lines]
        lines += ["tokenizer = AutoTokenizer.from_pretrained(folder)", "", *_write(chats)]
    return Loading(_needs(facts), "\n".join(lines), tuple(_notes(facts)))


def _open() -> list[str]:
    return [
        "from transformers import AutoModelForCausalLM",
        "",
        'folder = "."  # where this file lies',
        'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")',
    ]


def _open_mixed(facts: ModelFacts) -> list[str]:
    return [
        "from gptqmodel import GPTQModel",
        "",
        'folder = "."  # where this file lies',
        "model = GPTQModel.load(folder).model",
    ]


def _with_tokenizer(line: str) -> str:
    if line == "from transformers import AutoModelForCausalLM":
        return f"{line}, AutoTokenizer"
    if line == "from gptqmodel import GPTQModel":
        return f"{line}\nfrom transformers import AutoTokenizer"
    return line


def _write(chats: bool) -> list[str]:
    """Lines that let the model write something, greedily."""
    if chats:
        asked = [
            'messages = [{"role": "user", "content": "What is a list in Python?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ").to(model.device)",
        ]
    else:
        asked = ['inputs = tokenizer("A list in Python is", return_tensors="pt").to(model.device)']
    return [
        *asked,
        "written = model.generate(**inputs, max_new_tokens=32, do_sample=False)",
        "print(tokenizer.decode(written[0], skip_special_tokens=True))",
    ]


def _needs(facts: ModelFacts) -> str:
    if facts.quantization is None:
        return ""
    return GPTQ if facts.adapter is None else f"{GPTQ} {PEFT.removeprefix('pip install ')}"


def _notes(facts: ModelFacts) -> list[str]:
    q = facts.quantization
    if q is None:
        return ["Dense safetensors: transformers alone opens the folder."]
    bits = f"{q.bits}-bit" if not q.others else f"{q.bits}-bit, some of them other"
    notes = [
        f"The linears of the layers are {bits} integers in the standard GPTQ format, which transformers opens by way "
        "of GPTQModel and optimum; embedding, head and norms are not quantized. Kernels round differently, so logits "
        "differ a little between readers."
    ]
    if q.others:
        notes = [notes[0].replace("transformers opens by way of GPTQModel and optimum", "GPTQModel opens")]
    if facts.adapter is not None:
        notes.append(
            f"The adapter in `{adapter.FOLDER}/` belongs to the model: what was measured is both together. A reader "
            "that does not put it on opens another, worse model, and says nothing of it."
        )
    return notes
