"""The model card: what was done to a model, what that cost in quality, how to open it, under which licence.

It is made from what the store and the run's report have, whenever it is asked for, and lies beside the model where it
is handed out and in the run's folder: what is measured later never touches an artifact.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from attar.checkpoint import read_facts
from attar.errors import BadInput
from pipelines import card_facts, lineage, loading
from pipelines.card_facts import described, inline, public
from pipelines.home import Home
from pipelines.licence import Licence
from pipelines.licence import find as find_licence
from pipelines.lineage import Lineage

FILE = "card.md"  # in a run's folder
UNTOLD = ("progress_timeout", "champion", "track")  # parts of a recipe that change nothing of its models
TAGS = {"distill": "distilled", "prune": "pruned", "quantize": "quantized", "finetune": "fine-tuned"}


def save(home: Home, folder: Path) -> list[Path]:
    """Write the card of a run's last model into the run's folder; nothing where no stage has made one."""
    try:
        made = lineage.of_run(home, folder)
    except BadInput:  # the run made no model, or somebody has removed it
        return []
    path = folder / FILE
    path.write_text(render(made), encoding="utf-8")
    return [path]


def licence_of(made: Lineage) -> Licence:
    """The licence that the weights come with: of the origin, or of the student that took its place."""
    start = made.base or made.origin
    return find_licence(start.spec, start.folder)


def render(made: Lineage, licence: Licence | None = None) -> str:
    """The whole card, front matter first."""
    licence = licence or licence_of(made)
    matter = yaml.safe_dump(front_matter(made, licence), sort_keys=False, allow_unicode=True, width=1000)
    title = made.name or f"{made.artifact.manifest.get('stage', 'model')} {made.artifact.fingerprint}"
    parts = [
        f"---\n{matter}---",
        f"# {inline(title)}",
        card_facts.summary(made),
        _loading(made.artifact.folder),
        _done(made),
        *card_facts.quality(made),
        card_facts.size(made),
        _licence(made, licence),
        card_facts.limits(made),
        _reproduced(made),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(made: Lineage, licence: Licence) -> dict[str, Any]:
    """What the hub reads. Only names in its own letters get in; what is not known is left out."""
    facts = read_facts(made.artifact.folder)
    found: dict[str, Any] = {}
    if licence.name is not None:
        found |= {"license": licence.name, **dict(licence.more)}
    base = lineage.hub_id(made.base.folder) if made.base else None
    if base is not None:
        found |= {"base_model": base, "base_model_relation": "quantized" if facts.quantization else "finetune"}
    kinds = (str(step.manifest.get("stage", "")).partition(".")[0] for step in made.steps)
    tags = ["attar", *(TAGS[kind] for kind in kinds if kind in TAGS)]
    if facts.quantization is not None:
        tags += ["gptq", f"{facts.quantization.bits}-bit", *(["lora"] if facts.adapter else [])]
    return found | {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(tags)),
    }


def _loading(folder: Path) -> str:
    how = loading.loading(folder)
    needs = f"```sh\n{how.needs}\n```\n\n" if how.needs else ""
    return "\n\n".join(["## How to open it", f"{needs}```python\n{how.code}\n```", *how.notes])


def _done(made: Lineage) -> str:
    origin = f"The origin is {inline(public(made.origin.spec))}."
    if made.base is None:
        origin += " The weights began at random."
    elif made.base != made.origin:
        origin += f" The weights began as those of {inline(public(made.base.spec))}, the student."
    if not made.steps:
        return f"## What was done\n\n{origin} It was converted to safetensors, and nothing else."
    lines = ["| step | settings | learned from | changed | seconds |", "|---|---|---|---|---:|"]
    for step in made.steps:
        told = step.manifest
        seconds = f"{told['seconds']:,.0f}" if "seconds" in told else "–"
        changed = told.get("proofs", {}).get("changed") or _pairs(told)
        settings = _cells(described(told.get("settings", {})))
        cells = [inline(step.label), settings, inline(_sources(told)), inline(changed), seconds]
        lines.append(f"| {' | '.join(cells)} |")
    data = next((step.manifest["data"] for step in reversed(made.steps) if "data" in step.manifest), None)
    text = f"Text that stages learned from or were calibrated on: {card_facts.text_of(data)}." if data else ""
    return "\n\n".join(part for part in ["## What was done", origin, "\n".join(lines), text] if part)


def _cells(settings: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{inline(name)}={inline(value)}" for name, value in settings) or "the defaults"


def _pairs(told: dict[str, Any]) -> str:
    pairs = told.get("counts", {}).get("pairs")
    return f"{pairs:,} pairs made" if isinstance(pairs, int) else "–"


def _sources(told: dict[str, Any]) -> str:
    """Who and what a stage learned from, in words."""
    settings, found = told.get("settings", {}), []
    if (endpoint := settings.get("endpoint")) is not None:
        found.append(f"answers of {endpoint.get('model', 'a model')} at {public(str(endpoint.get('url', '')))}")
    elif "teacher" in told.get("inputs", {}):
        found.append(f"teacher: {public(str(settings.get('teacher', 'origin')))}")
    found += [role.removeprefix("data.") + " text" for role in told.get("inputs", {}) if role.startswith("data.")]
    if "prompts" in told.get("inputs", {}):
        found.append(f"prompts of {public(str(settings.get('prompts')))}")
    if "responses" in told.get("inputs", {}):
        found.append("answers made before")
    return ", ".join(found) or "–"


def _licence(made: Lineage, licence: Licence) -> str:
    whose = "the origin" if made.base in (None, made.origin) else "the student that the weights began as"
    if licence.name is None:
        told = f"Not known here: {inline(licence.told)}. Ask whoever published {whose} before you pass this on."
    elif licence.name == "other":
        told = f"That of {whose}: {inline(licence.told)}."
    else:
        told = f"`{licence.name}`, that of {whose}: {inline(licence.told)}."
    if made.base is None:
        told += " The weights began at random, so the front matter names no base model."
    elif lineage.hub_id(made.base.folder) is None:
        told += " The front matter names no base model, because it is not known which of the hub's it is."
    teachers = [
        f"- {inline(public(name))}: {f'`{found.name}`' if found.name else 'not known'} ({inline(found.told)})"
        for name, found in _teachers(made)
    ]
    asked = ["Other models taught it; whether their licences allow that is for them to say:", "\n".join(teachers)]
    return "\n\n".join(["## Licence", told, *(asked if teachers else [])])


def _teachers(made: Lineage) -> list[tuple[str, Licence]]:
    """Teachers that are neither the origin nor a model of the same chain, and their licences."""
    found: dict[str, Licence] = {}
    for step in made.steps:
        name = str(step.manifest.get("settings", {}).get("teacher", "origin"))
        endpoint = step.manifest.get("settings", {}).get("endpoint")
        if endpoint is not None:
            url = public(str(endpoint.get("url", "")))
            found[f"{endpoint.get('model', 'a model')} at {url}"] = Licence(None, "it answered over the network")
        elif name not in ("origin", "previous") and (teacher := step.manifest.get("teacher")):
            found[name] = find_licence(name, Path(teacher["folder"]))
    return list(found.items())


def _reproduced(made: Lineage) -> str:
    manifest = made.artifact.manifest
    parts = ["## How to make it again"]
    if made.recipe is not None:
        recipe = {key: value for key, value in made.recipe.items() if key not in UNTOLD}
        shown = card_facts.public_values(recipe)
        text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
        which = f"; this model is that of step {made.rows[-1].step}" if made.rows else ""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
        parts += [
            f"Save this as `recipe.yaml`{which}. Of files on the maker's machine it holds the last part of the path.",
            f"{fence}yaml\n{text}{fence}",
            "```sh\nattar run recipe.yaml\n```",
        ]
    machine, versions = manifest.get("machine", {}), manifest.get("versions", {})
    if machine:
        where = ", ".join(str(machine[key]) for key in ("cpu", "gpu", "device") if key in machine)
        parts.append(
            f"Made on {inline(where)} with {machine.get('threads', '?')} threads, Python "
            f"{inline(str(machine.get('python', '?')))}, {inline(', '.join(f'{k} {v}' for k, v in versions.items()))}. "
            "On such a machine, with as many threads and these versions, the same weights come out, bit for bit."
        )
    parts.append(f"Fingerprint `{made.artifact.fingerprint}`." + (f" Run {inline(made.run)}." if made.run else ""))
    return "\n\n".join(parts)
