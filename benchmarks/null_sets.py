"""Do the verdicts hold: null data sets, and a model spoiled by noise.  ``python benchmarks/null_sets.py --help``

``null_sets.py A B --home H`` takes two evaluations of a home, by fingerprint, and makes 200 null data sets of them, on
each of the two texts: on every document the two models' scores are swapped or not, at random, so that no real
difference is left. At a level of 5 % some ten are called different by chance; more than 16 would be called so once in
42 tries. Without A and B, the two compressed models measured last are taken of those measured alike.

``null_sets.py --noise MODEL --home H`` adds N(0, σ of the tensor) to a random 1 % of every tensor's weights, measures
origin and result as a run measures them, and must find the result worse.

Prints one table and writes it as JSON, where the part that was not asked for stays. Exit code 1 where a verdict does
not hold.
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
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
from attar.stamp import comparable, group
from attar.statistics import difference, perplexity_retained
from attar.store import Store
from attar.suite import Suite
from pipelines.home import Home
from pipelines.inventory import FINGERPRINT
from pipelines.materials import open_model, resolve_machine
from stages.measure import TEXTS, run_measure
from stages.spec import MeasureSpec, ModelRef

SETS, ALLOWED, SHARE = 200, 16, 0.01
RESULTS = Path(__file__).parent / "results" / "null_sets.json"


@dataclass(frozen=True)
class Finding:
    """A verdict that has to hold, and whether it does."""

    what: str
    documents: int
    told: str
    holds: bool
    evaluations: list[str]
    figures: dict[str, Any] = field(default_factory=dict)


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


def null_sets(one: str, two: str, home: Path) -> list[Finding]:
    """Both texts of two evaluations."""
    results = [json.loads((_folder(name, home) / "result.json").read_text()) for name in (one, two)]
    if why := comparable(*results, "retained"):
        raise BadInput(why)
    found = []
    for text in TEXTS:
        left, right = _scores(one, text, home), _scores(two, text, home)
        different, as_measured = null_verdicts(left, right), difference(left, right)
        told = f"{different} called different, {ALLOWED} allowed; as measured: {as_measured.verdict}"
        more = {"called_different": different, "allowed": ALLOWED, "as_measured": vars(as_measured)}
        what = f"{SETS} null data sets, {text} text"
        found.append(Finding(what, len(left.ids), told, different <= ALLOWED, [one, two], more))
    return found


def noise(model: ModelRef, suite: Suite, data: DataSettings, home: Path) -> list[Finding]:
    """What the noise cost on both texts, and whether it was seen."""
    spoiled = home / "noised" / model.fingerprint
    shutil.rmtree(spoiled, ignore_errors=True)
    add_noise(Path(model.folder), spoiled)
    spoiled_ref = ModelRef(folder=str(spoiled), fingerprint=folder_fingerprint(spoiled, home))
    origin = measured(model, model, None, suite, data, home)
    result = measured(spoiled_ref, model, origin, suite, data, home)
    findings = []
    for text in TEXTS:
        found = perplexity_retained(*(_scores(name, text, home) for name in (result, origin)))
        told = f"{found.verdict}; {found.value:.1%} retained ({found.low:.1%}–{found.high:.1%}), p = {found.p:.2g}"
        what = f"noise on {SHARE:.0%} of the weights, {text} text"
        findings.append(Finding(what, found.items, told, found.verdict == "worse", [result, origin], vars(found)))
    return findings


def newest_pair(home: Path) -> list[str]:
    """The evaluations of the two compressed models that were measured last of those that may be ranked together."""
    groups: dict[str, list[tuple[float, str, str]]] = {}
    store = Store(home / "store")
    for folder in (store.root / "evaluation").glob("*"):
        found = store.find("evaluation", folder.name)
        if found is None or found.inputs["model"] == found.inputs["origin"]:
            continue
        alike = group(json.loads((folder / "result.json").read_text()), "headline")
        if alike is not None:
            groups.setdefault(alike, []).append((folder.stat().st_mtime, folder.name, found.inputs["model"]))
    pairs = []
    for ones in groups.values():
        models = {model: (when, name) for when, name, model in sorted(ones)}
        if len(models) > 1:
            pairs.append(sorted(models.values())[-2:])
    if not pairs:
        raise BadInput(f"no two compressed models were measured alike in {home}; name two evaluations, or run a recipe")
    return [name for _, name in max(pairs, key=lambda pair: pair[-1])]


def _folder(evaluation: str, home: Path) -> Path:
    found = Store(home / "store").find("evaluation", evaluation) if FINGERPRINT.fullmatch(evaluation) else None
    if found is None:
        raise BadInput(f"{home} has no evaluation {evaluation!r}; they lie in store/evaluation")
    return found.folder


def _scores(evaluation: str, text: str, home: Path) -> Scores:
    found = scores.load(_folder(evaluation, home))
    if f"loss/{text}" not in found:
        raise BadInput(f"the evaluation {evaluation} has no scores of the {text} text; measure its model again")
    return found[f"loss/{text}"]


def save(part: str, findings: list[Finding], path: Path) -> None:
    """Write one part of the results; the other stays as it is."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | {part: [asdict(one) for one in findings]}, indent=1, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", help="two fingerprints of evaluations of the same origin")
    parser.add_argument("--noise", help="a dense model, as recipes name one")
    parser.add_argument("--home", type=Path, default=Path(".attar"))
    parser.add_argument("--source", default=DataSettings().source, help="data.source of the recipe")
    parser.add_argument("--windows", type=int, default=Suite().windows)
    parser.add_argument("--length", type=int, default=Suite().length)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.evaluations and (len(arguments.evaluations) != 2 or arguments.noise):
        parser.error("give two evaluations, or --noise and a model, or neither")
    home = arguments.home.absolute()
    if arguments.noise:
        home.mkdir(parents=True, exist_ok=True)
        suite = Suite(windows=arguments.windows, length=arguments.length, speed=False)
        model = open_model(arguments.noise, "causal-lm", Home(home), complete=True).ref
        part, found = "noise", noise(model, suite, DataSettings(source=arguments.source), home)
    else:
        part, found = "null_sets", null_sets(*(arguments.evaluations or newest_pair(home)), home)
    save(part, found, arguments.out)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "documents", "found", "holds"):
        table.add_column(heading)
    for one in found:
        table.add_row(one.what, str(one.documents), one.told, "yes" if one.holds else "NO")
    Console(width=140).print(table)
    return 0 if all(one.holds for one in found) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AttarError as error:
        sys.exit(str(error))
