"""Do the verdicts hold: null data sets, and a model spoiled by noise.  ``python benchmarks/null_sets.py --help``

``null_sets.py A B --home H`` takes two evaluations of a home, by fingerprint, and makes 200 null data sets of them: on
every document the two models' scores are swapped or not, at random, so that no real difference is left. At a level of
5 % some ten are called different by chance; more than 16 would be called so once in fifty tries.

``null_sets.py --noise MODEL --home H`` adds N(0, σ of the tensor) to a random 1 % of every tensor's weights, measures
origin and result as a run measures them, and must find the result worse. It prints the fingerprints of both
evaluations, which can be given as A and B. Exit code 1 where a verdict does not hold.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from attar import scores
from attar.checkpoint import weight_files
from attar.data import DataSettings, open_corpus
from attar.errors import AttarError, BadInput
from attar.events import Events
from attar.exam import set_exam
from attar.fingerprint import hash_json
from attar.machine import measuring
from attar.scores import Scores
from attar.sources import folder_fingerprint
from attar.statistics import difference, perplexity_retained
from attar.store import Store
from attar.suite import Suite
from pipelines.home import Home
from pipelines.materials import open_model, resolve_machine
from stages.measure import TEXTS, run_measure
from stages.spec import MeasureSpec, ModelRef

SETS, ALLOWED, SHARE = 200, 16, 0.01


def null_verdicts(one: Scores, two: Scores, sets: int = SETS) -> int:
    """How many of ``sets`` random swaps of two models' scores, item by item, are called a difference."""
    generator = np.random.default_rng(int(hash_json([one.ids, one.sums, two.sums])[:16], 16))
    other = dict(zip(two.ids, two.sums, strict=True))
    pairs = np.array([(a, other[i]) for i, a in zip(one.ids, one.sums, strict=True)])
    found = 0
    for _ in range(sets):
        kept = generator.random(len(pairs)) < 0.5
        left, right = np.where(kept, pairs[:, 0], pairs[:, 1]), np.where(kept, pairs[:, 1], pairs[:, 0])
        verdict = difference(
            Scores(one.ids, tuple(left.tolist()), one.counts), Scores(one.ids, tuple(right.tolist()), one.counts)
        ).verdict
        found += verdict != "not distinguishable"
    return found


def add_noise(source: Path, target: Path, share: float = SHARE, seed: int = 0) -> Path:
    """A copy of a dense model folder whose weights have N(0, σ of the tensor) on a random ``share`` of each tensor."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json"))
    generator = torch.Generator().manual_seed(seed)
    for file in sorted(set(weight_files(target).values())):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise BadInput(f"{source} holds integers ({name}), to which no noise can be added; give a dense model")
            hit = torch.rand(tensor.shape, generator=generator) < share
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std(correction=0)
            tensors[name] = (tensor.float() + hit * noise).to(tensor.dtype)
        file.unlink()  # it may be a link into a cache
        save_file(tensors, file, metadata={"format": "pt"})
    return target


def measured(
    model: ModelRef, origin: ModelRef, origin_evaluation: str | None, suite: Suite, data: DataSettings, home: Path
) -> str:
    """Fingerprint of the evaluation of a model, made as a run makes it."""
    corpus = open_corpus(data, home / "store" / "dataset")
    inputs = {"model": model.fingerprint, "origin": origin.fingerprint}
    inputs |= {f"data.{split}": corpus.fingerprint(split) for split in TEXTS}
    inputs |= set_exam(suite, corpus, home / "store" / "dataset").inputs()
    where = resolve_machine("auto", "auto")
    torch.set_num_threads(where.threads)
    spec = MeasureSpec(
        home=str(home),
        events=str(home / "null-sets.jsonl"),
        machine=where,
        fingerprint=suite.fingerprint(inputs, measuring(where.device, where.dtype, where.threads, suite.speed)),
        model=model,
        origin=origin,
        suite=suite,
        data=data,
        inputs=inputs,
        origin_evaluation=origin_evaluation,
    )
    run_measure(spec, Events(Path(spec.events)))
    return spec.fingerprint


def noise(model: ModelRef, suite: Suite, data: DataSettings, home: Path, text: str) -> dict[str, Any]:
    """What the noise cost, and whether it was seen."""
    spoiled = home / "noised" / model.fingerprint
    shutil.rmtree(spoiled, ignore_errors=True)
    add_noise(Path(model.folder), spoiled)
    spoiled_ref = ModelRef(folder=str(spoiled), fingerprint=folder_fingerprint(spoiled, home))
    origin = measured(model, model, None, suite, data, home)
    result = measured(spoiled_ref, model, origin, suite, data, home)
    found = perplexity_retained(*(_scores(name, text, home) for name in (result, origin)))
    return {"evaluations": [result, origin], **vars(found), "holds": found.verdict == "worse"}


def _scores(evaluation: str, text: str, home: Path) -> Scores:
    found = scores.load(Store(home / "store").open("evaluation", evaluation).folder)
    if f"loss/{text}" not in found:
        raise BadInput(f"the evaluation {evaluation} has no scores of the {text} text; measure its model again")
    return found[f"loss/{text}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", help="two fingerprints of evaluations of the same origin")
    parser.add_argument("--noise", help="a dense model, as recipes name one")
    parser.add_argument("--home", type=Path, default=Path(".attar"))
    parser.add_argument("--text", choices=["other", "held-out"], default="other")
    parser.add_argument("--source", default=DataSettings().source, help="data.source of the recipe")
    parser.add_argument("--windows", type=int, default=Suite().windows)
    parser.add_argument("--length", type=int, default=Suite().length)
    arguments = parser.parse_args()
    if (len(arguments.evaluations) == 2) == bool(arguments.noise):
        parser.error("give two evaluations, or --noise and a model")
    home = arguments.home.absolute()
    if arguments.noise:
        home.mkdir(parents=True, exist_ok=True)
        suite = Suite(windows=arguments.windows, length=arguments.length, speed=False)
        model = open_model(arguments.noise, "causal-lm", Home(home), complete=True).ref
        found = noise(model, suite, DataSettings(source=arguments.source), home, arguments.text)
    else:
        one, two = (_scores(name, arguments.text, home) for name in arguments.evaluations)
        different = null_verdicts(one, two)
        found = {"null_sets": SETS, "documents": len(one.ids), "called_different": different, "allowed": ALLOWED}
        found |= {"as_measured": vars(difference(one, two)), "holds": different <= ALLOWED}
    print(json.dumps(found, indent=1))  # noqa: T201
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AttarError as error:
        sys.exit(str(error))
