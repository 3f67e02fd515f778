"""The code that opens a model's folder, for each kind of folder that stages make: dense, GPTQ, with an adapter."""

from dataclasses import dataclass
from pathlib import Path

from attar import adapter
from attar.checkpoint import read_facts
from attar.facts import ModelFacts

GPTQ = "pip install 'gptqmodel>=7.6,<8' 'optimum>=2'"  # as in the extra gptq of pyproject.toml
PEFT = "pip install 'peft>=0.21'"


KERNEL_GROUPS = (32, 64, 128, 256)  # that GPTQModel's own choice of kernel computes for 4 bits on a CPU


@dataclass(frozen=True)
class Loading:
    """How a model is opened."""

    needs: str  # a command; empty where transformers is enough
    code: str  # Python that runs in the model's folder and leaves ``model``
    notes: tuple[str, ...] = ()


def loading(folder: Path) -> Loading:
    """How the model in this folder is opened."""
    facts = read_facts(folder)
    imports, opened = _opened(facts)
    if facts.adapter is not None:
        imports["peft"] = ["PeftModel"]
        opened.append(f'model = PeftModel.from_pretrained(model, f"{{folder}}/{adapter.FOLDER}")')
    if (folder / "tokenizer.json").is_file():
        imports.setdefault("transformers", []).append("AutoTokenizer")
        chats = (folder / "chat_template.jinja").is_file()
        opened += ["tokenizer = AutoTokenizer.from_pretrained(folder)", "", *_write(chats)]
    lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    code = [*lines, "", 'folder = "."  # where this file lies', *opened]
    return Loading(_needs(facts), "\n".join(code), tuple(_notes(facts)))


def _opened(facts: ModelFacts) -> tuple[dict[str, list[str]], list[str]]:
    """What is imported from where, and the lines that open the model."""
    q, torch_kernel = facts.quantization, _needs_torch_kernel(facts)
    if q is not None and q.others:
        if not torch_kernel:
            return {"gptqmodel": ["GPTQModel"]}, ["model = GPTQModel.load(folder).model"]
        imports = {"gptqmodel": ["BACKEND", "GPTQModel"]}
        return imports, ["model = GPTQModel.load(folder, backend=BACKEND.GPTQ_TORCH).model"]
    if q is not None and torch_kernel:
        return {"transformers": ["AutoModelForCausalLM", "GPTQConfig"]}, [
            f'kernel = GPTQConfig(bits={q.bits}, backend="torch")',
            'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", quantization_config=kernel)',
        ]
    opened = 'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")'
    return {"transformers": ["AutoModelForCausalLM"]}, [opened]


def _needs_torch_kernel(facts: ModelFacts) -> bool:
    """Whether the kernel that GPTQModel chooses by itself on a CPU cannot compute this model."""
    q = facts.quantization
    if q is None:
        return False
    groups = {q.group_of(columns) for module, (_, columns) in facts.packed_modules.items() if q.bits_of(module) == 4}
    return not groups <= set(KERNEL_GROUPS)


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
    if _needs_torch_kernel(facts):
        notes.append(
            f"The code names GPTQModel's torch kernel, since the one that it would choose on a CPU knows no groups of "
            f"this size ({q.group_size}); on a GPU the choice may be left to it."
        )
    if facts.adapter is not None:
        notes.append(
            f"The adapter in `{adapter.FOLDER}/` belongs to the model: what was measured is both together. A reader "
            "that does not put it on opens another, worse model, and says nothing of it."
        )
    return notes
