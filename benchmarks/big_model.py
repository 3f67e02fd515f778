"""Quantizes a large random model in little memory: ``python benchmarks/big_model.py --scratch FOLDER``

Makes a Llama-shaped model of 1.1 billion random parameters on disk, asks ``attar plan`` what quantizing it will take,
runs it through the command line, watches every process that this starts, and prints what was planned beside what came
out: bytes of the result, and the highest resident memory of the stage and of the fresh process that proves its result.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from attar.facts import ModelFacts
from attar.tiny import tiny_model
from attar.writer import Writer

SIZES: dict[str, dict[str, int]] = {
    "1.1B": {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "intermediate_size": 5632},
    "60M": {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 1408},
}
KV_HEADS = {"1.1B": 4, "60M": 2}
VOCABULARY = 32_000
ALLOWED = 0.15  # between plan and measurement
CEILING = 3e9  # bytes that no process may reach with the large model


def make_model(folder: Path, size: str) -> ModelFacts:
    """Write the model, tensor by tensor, so that making it takes no memory either."""
    shape = SIZES[size]
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape,
        "head_dim": shape["hidden_size"] // shape["num_attention_heads"],
        "num_key_value_heads": KV_HEADS[size],
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }
    folder.mkdir(parents=True)
    facts = ModelFacts(config)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        writer = Writer(folder, facts, tokenizer_from=tiny_model(Path(scratch) / "tiny"))
        for name, fact in facts.tensors().items():
            if name.endswith("norm.weight"):
                writer.tensor(name, torch.ones(fact.shape, dtype=torch.bfloat16))
            else:
                writer.tensor(name, torch.randn(fact.shape, generator=generator, dtype=torch.bfloat16).mul_(0.02))
        writer.close()
    return facts


class Watch(threading.Thread):
    """Follows a process and all that it starts; remembers the highest resident memory of each."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(root)
        self.peaks: dict[str, int] = {}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            try:
                for process in [self.root, *self.root.children(recursive=True)]:
                    self._look(process)
            except psutil.NoSuchProcess:
                continue

    def _look(self, process: psutil.Process) -> None:
        try:
            name = _name(process.cmdline())
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (OSError, psutil.Error):
            return
        high = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
        self.peaks[name] = max(high, self.peaks.get(name, 0))


def _name(command: list[str]) -> str:
    """What a process does, from its command line."""
    for part in command:
        if part.endswith("spec.json"):
            return Path(part).parent.name
        if part.endswith("reopen.py"):
            return "reopening the result"
    return "attar and its servers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the model, the store and the result")
    parser.add_argument("--size", choices=tuple(SIZES), default="1.1B")
    parser.add_argument("--windows", type=int, default=64, help="calibration windows of 512 tokens")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "big_model.json")
    arguments = parser.parse_args()
    scratch: Path = arguments.scratch.absolute()
    model = scratch / arguments.size
    if not model.exists():
        make_model(model, arguments.size)
    recipe = scratch / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "big",
                "model": str(model),
                "stages": [{"stage": "quantize.gptq", "windows": arguments.windows}],
                "measure": {"windows": 1, "length": 16, "speed": False},
            }
        )
    )
    attar = [sys.executable, "-m", "pipelines.cli"]
    home = ["--home", str(scratch / "home")]
    planned = json.loads(
        subprocess.run([*attar, "plan", recipe, "--json", *home], check=True, capture_output=True).stdout
    )
    step = planned["steps"][1]
    with subprocess.Popen([*attar, "run", recipe, *home], stdout=sys.stderr) as run:
        watch = Watch(run.pid)
        watch.start()
        code = run.wait()
        watch.over.set()
        watch.join()
    if code:
        raise SystemExit(f"the run ended with exit code {code}")
    result = scratch / "home" / "store" / "model" / step["fingerprint"]
    manifest = json.loads((result / "manifest.json").read_text())
    size = sum(path.stat().st_size for path in result.iterdir() if path.name != "manifest.json")
    looked = [peak for name, peak in watch.peaks.items() if "stage" in name or name.startswith("reopening")]
    stage = max(manifest["peak_memory_bytes"], *looked)  # a look every tenth of a second may miss a process's last
    report = {
        "parameters": step["parameters"],
        "planned": {"bytes": step["bytes"], "memory_bytes": step["stage_memory_bytes"], "seconds": step["seconds"]},
        "measured": {"bytes": size, "memory_bytes": stage, "seconds": manifest["seconds"]},
        "peaks": watch.peaks,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    _print(report, arguments.size)


def _print(report: dict[str, Any], size: str) -> None:
    lines = [
        f"{report['parameters'] / 1e6:,.0f} M parameters",
        "",
        "| | planned | measured | ratio |",
        "|---|--:|--:|--:|",
    ]
    for what in ("bytes", "memory_bytes"):
        planned, measured = report["planned"][what], report["measured"][what]
        lines.append(f"| {what} | {planned / 1e9:.3f} GB | {measured / 1e9:.3f} GB | {planned / measured:.3f} |")
    lines += ["", "Highest resident memory of each process:"]
    lines += [f"  {peak / 1e9:6.2f} GB  {name}" for name, peak in sorted(report["peaks"].items(), key=lambda i: -i[1])]
    off = [w for w in ("bytes", "memory_bytes") if abs(report["planned"][w] / report["measured"][w] - 1) > ALLOWED]
    lines += [f"MISSED: {what} planned more than {ALLOWED:.0%} off" for what in off]
    if size == "1.1B" and report["measured"]["memory_bytes"] >= CEILING:
        lines.append(f"MISSED: more than {CEILING / 1e9:.0f} GB of memory")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
