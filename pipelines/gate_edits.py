"""Where gates stand in a chain, and what they change in a recipe: the value of a setting, or a stage more. Pure."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import stages
from attar.errors import BadInput, nearest
from attar.suite import Suite
from pipelines import gates, task_measures
from pipelines.chain import Entry, Link, links
from pipelines.gates import MEASURES, Bisect, Gate, Insert, Number


def places(gate: Gate, chain: Sequence[Link]) -> tuple[int, ...]:
    """The steps after which a gate is judged, 1 for the first stage; of a repeated stage every round."""
    models = {number: _path(link) for number, link in enumerate(chain, start=1) if link.stage.makes == "model"}
    if not models:
        raise BadInput("no stage of the recipe makes a model, so there is nothing to judge")
    if gate.after == "every":
        return tuple(models)
    if gate.after == "end":
        return (max(models),)
    exact = tuple(number for number, path in models.items() if path == gate.after)
    inside = [number for number, path in models.items() if path.startswith(f"{gate.after}.")]
    if not exact and not inside:
        known = dict.fromkeys(["end", "every", *models.values()])
        others = [_path(link) for link in chain if link.stage.makes != "model"]
        why = "makes no model" if gate.after in others else "is no stage of this recipe"
        raise BadInput(f"after={gate.after}: that {why}; possible: {', '.join(known)}")
    return exact or (max(inside),)


def check(document: Sequence[Entry], entries: Sequence[dict[str, Any]], suite: Suite, priced: bool) -> tuple[Gate, ...]:
    """The gates of a recipe with these stages, or one sentence about the first that cannot work.

    ``priced``: the recipe says what the machine costs.
    """
    found = gates.parse(entries)
    chain = links(document) if found else ()
    for number, gate in enumerate(found):
        try:
            _check_measured(gate, suite, priced)
            _check(gate, document, chain)
        except BadInput as error:
            raise BadInput(f"gates.{number}: {error}") from None
    return found


def value_of(document: Sequence[Entry], setting: str) -> Number:
    """The number that a setting has now, its default where the recipe is silent."""
    path, _, name = setting.rpartition(".")
    entry = _entry(document, path)
    if entry is None or "stage" not in entry:
        raise BadInput(f"{setting}: the recipe has no stage {path}; stages are counted from 0")
    stage = stages.parse(entry, path)
    if name not in type(stage).model_fields:
        known = sorted(key for key in type(stage).model_fields if _number(getattr(stage, key)))
        raise BadInput(f"{setting}: {stage.stage} has no setting {name!r}; {nearest(name, known)}")
    value = getattr(stage, name)
    if not _number(value):
        raise BadInput(f"{setting}: its value is {value!r}; only a number can be bisected")
    return value  # type: ignore[no-any-return]


def with_value(document: Sequence[Entry], setting: str, value: Number) -> list[Entry]:
    """The stages with another value of one setting."""
    path, _, name = setting.rpartition(".")
    changed = copy.deepcopy(list(document))
    entry = _entry(changed, path)
    assert entry is not None
    entry[name] = value
    return changed


def spent(entries: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The gates after one of them has acted: the next time, it stops."""
    return [entry | {"breach": "stop"} if place == number else entry for place, entry in enumerate(entries)]


def with_stage(
    document: Sequence[Entry], entries: Sequence[dict[str, Any]], gate: Gate
) -> tuple[list[Entry], list[dict[str, Any]]]:
    """The stages with a gate's recovery put in, and the gates, which name the stages behind it by other numbers."""
    assert isinstance(gate.breach, Insert)
    at = _top(gate, links(document))
    changed = copy.deepcopy(list(document))
    changed.insert(at + 1, dict(gate.breach.entry))
    moved = copy.deepcopy(list(entries))
    for entry in moved:
        # What was judged where the stage is put in is judged behind it from now on; settings stay with their stage.
        after = entry.get("after", "end")
        entry["after"] = _shifted(after, at + (".stages." in after))
        breach = entry.get("breach")
        if isinstance(breach, dict) and "bisect" in breach:
            breach["bisect"]["setting"] = _shifted(breach["bisect"]["setting"], at + 1)
    return changed, moved


def variants(document: Sequence[Entry], found: Sequence[Gate]) -> Iterator[tuple[str, list[Entry]]]:
    """What a breach may make of the stages: where it is asked for, and the mildest or mended chain."""
    for number, gate in enumerate(found):
        if isinstance(gate.breach, Bisect):
            mild = gate.breach.within[0]
            yield (
                f"gates.{number}: {gate.breach.setting}={mild}",
                with_value(document, gate.breach.setting, mild),
            )
        elif isinstance(gate.breach, Insert):
            yield f"gates.{number}: breach.insert", with_stage(document, [], gate)[0]


def told(chain: Sequence[Link], found: Sequence[Gate]) -> list[str]:
    """A line for every gate, as the plan prints it."""
    lines = []
    for gate in found:
        labels = ", ".join(f"{place} {chain[place - 1].stage.stage}" for place in places(gate, chain))
        judged = f" ({gate.bound})" if gates.has_interval(gate.measure) else ""
        lines.append(f"{gate.rule} after {labels}{judged}; a breach {gate.remedy}")
    return lines


def _check_measured(gate: Gate, suite: Suite, priced: bool) -> None:
    """What is judged must be measured."""
    measure, other = MEASURES[gate.measure], "measure it, or gate something else"
    if gate.measure.startswith(task_measures.PREFIX):
        task_measures.require(gate.measure, suite)
    if measure.timed and not suite.speed:
        raise BadInput(f"{gate.measure} is not measured with measure.speed=false; {other}")
    if measure.batch and int(measure.batch) not in suite.batches:
        raise BadInput(
            f"{gate.measure} is measured where measure.batch_sizes has {measure.batch}, and it is "
            f"{list(suite.batches)}; {other}"
        )
    if measure.unit == "price" and not priced:
        raise BadInput(f"{gate.measure} needs the recipe's price_per_hour; give it, or gate something else")


def _check(gate: Gate, document: Sequence[Entry], chain: Sequence[Link]) -> None:
    first = places(gate, chain)[0]
    if isinstance(gate.breach, Bisect):
        _check_bisect(gate.breach, document, chain, first)
    elif isinstance(gate.breach, Insert):
        if gate.after == "every":
            raise BadInput("insert puts one stage into one place; gate one stage or the end, or use bisect or stop")
        if ".stages." in gate.after:
            raise BadInput(f"after={gate.after} is inside a repetition; put the recovery into it, or gate its end")
        stage = stages.parse(gate.breach.entry, "breach.insert")
        if stage.makes != "model":
            raise BadInput(f"breach.insert: {stage.stage} makes no model, so it recovers nothing")


def _check_bisect(asked: Bisect, document: Sequence[Entry], chain: Sequence[Link], first: int) -> None:
    now, (mild, bold) = value_of(document, asked.setting), asked.within
    path, _, name = asked.setting.rpartition(".")
    for value in asked.within:
        entry = _entry(document, path)
        assert entry is not None
        stages.parse(entry | {name: value}, f"breach.bisect: {path}")
    if (now - mild) * (bold - mild) < 0:
        raise BadInput(
            f"breach.bisect: {asked.setting} is {now}, milder than the mildest of within={[mild, bold]}; "
            "what is milder than a breach is searched, so put the mildest value first"
        )
    at = min(number for number, link in enumerate(chain, start=1) if _path(link) == path)
    if at > first:
        raise BadInput(f"breach.bisect: {asked.setting} is set after step {first}, where the gate is judged")


def _path(link: Link) -> str:
    return link.where.partition(" ")[0]


def _entry(document: Sequence[Entry], path: str) -> Entry | None:
    """The entry that a path such as ``stages.1.stages.0`` leads to."""
    entry: Entry = {"stages": list(document)}
    for place in path.split(".")[1::2]:
        inner = entry.get("stages")
        if not isinstance(inner, list) or int(place) >= len(inner):
            return None
        entry = inner[int(place)]
    return entry


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _top(gate: Gate, chain: Sequence[Link]) -> int:
    """The place in the recipe's own list that a gate's last step belongs to."""
    return int(_path(chain[places(gate, chain)[-1] - 1]).split(".")[1])


def _shifted(path: str, least: int) -> str:
    """A path whose stage moves by one, if it stands at ``least`` or behind."""
    parts = path.split(".")
    if parts[0] != "stages" or int(parts[1]) < least:
        return path
    return ".".join(["stages", str(int(parts[1]) + 1), *parts[2:]])
