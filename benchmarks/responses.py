"""What is a student taught best by: answers, logits, or half of each?  ``python benchmarks/responses.py``

One student, one number of training tokens, one seed after another. All of it runs through ``attar run``, so that what
is there already is not computed again. Printed is a Markdown table: KL to the origin and top-1 agreement, perplexity on
both texts, and the share of right choices of the described function out of four, on modules nobody was trained on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from attar.choices import questions
from attar.data import DataSettings, open_corpus
from attar.model import Model
from attar.picking import answers, pick
from attar.questions import Choosing
from pipelines import recipe_yaml

RECIPE = Path(__file__).parents[1] / "conf" / "responses.yaml"


def variants(recipe: dict[str, Any], tokens: int) -> dict[str, list[dict[str, Any]]]:
    """Name → stages. A step of either kind of training reads as many tokens as one of the other."""
    generate, respond = recipe["stages"]
    respond = respond | {"train_tokens": tokens}
    logit = {"stage": "distill.logit"} | {k: respond[k] for k in ("keep", "train_tokens", "learning_rate")}
    logit |= {"batch": 2 * respond["batch"], "length": respond["length"] // 2}
    going_on = {k: v for k, v in respond.items() if k != "keep"} | {"student": "previous", "train_tokens": tokens // 2}
    return {
        "responses": [generate, respond],
        "logit": [logit],
        "half and half: logit, then responses": [logit | {"train_tokens": tokens // 2}, generate, going_on],
        "half and half: both on the answers": [generate, respond | {"alpha": 0.5}],
    }


def run(recipe: dict[str, Any], home: Path) -> list[dict[str, Any]]:
    """The rows of a recipe's report."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(recipe, file, sort_keys=False)
        file.flush()
        command = [sys.executable, "-m", "pipelines.cli", "run", file.name, "--json", "--home", str(home)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def picking(row: dict[str, Any], home: Path, data: DataSettings, count: int) -> tuple[float, int]:
    """Share of right choices of a row's model, and the number of questions."""
    documents = open_corpus(data, home / "store" / "dataset").documents("held-out")
    asked = Choosing(
        "describes", (*questions(documents, "easy", count // 2), *questions(documents, "hard", count // 2))
    )
    model = Model(Path(row["folder"]))
    picked = pick(model.materialize(torch.bfloat16), model.tokenizer_file, asked)
    return answers(asked, picked).mean, len(asked.questions)


def line(name: str, row: dict[str, Any], picked: tuple[float, int]) -> str:
    perplexities = [f"{row[key]:.2f}" for key in ("perplexity_other", "perplexity_held_out")]
    cells = [name, f"{row['kl']:.3f}", f"{row['agreement']:.1%}", *perplexities, f"{picked[0]:.1%} of {picked[1]}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="generate.responses, then distill.response")
    parser.add_argument("--home", type=Path, default=Path(".attar"))
    parser.add_argument("--tokens", type=int, default=40_960, help="training tokens of every student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--questions", type=int, default=400, help="at most")
    arguments = parser.parse_args()
    recipe = recipe_yaml.parse(recipe_yaml.read_text(arguments.recipe), str(arguments.recipe))
    data = DataSettings(**recipe.get("data", {}))
    print("| student | KL | agreement | perplexity other | held-out | picks the function |")  # noqa: T201
    print("|---|---:|---:|---:|---:|---:|")  # noqa: T201
    origin = False
    for seed in arguments.seeds:
        for name, stages in variants(recipe, arguments.tokens).items():
            rows = run(recipe | {"stages": stages, "seed": seed}, arguments.home)
            if not origin:
                print(line("origin", rows[0], picking(rows[0], arguments.home, data, arguments.questions)))  # noqa: T201
                origin = True
            picked = picking(rows[-1], arguments.home, data, arguments.questions)
            print(line(f"{name}, seed {seed}", rows[-1], picked), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
