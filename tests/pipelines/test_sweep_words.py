"""What a sweep's settings and orders are called: once for all places, and for readers who have not its recipe."""

from pathlib import Path
from typing import Any

from pipelines import recipe_yaml
from pipelines.sweep_space import read
from pipelines.sweep_words import label, names, short, short_order, whole

CONF = Path(__file__).parents[2] / "conf"


def test_labels_name_the_stage_where_two_settings_are_called_alike(document: dict[str, Any]) -> None:
    document["stages"][1]["windows"] = {"sweep": [4, 8]}
    document["stages"][0] |= {"windows": {"sweep": [2]}, "ffn": {"sweep": [0.2]}}
    space = read(document)
    assert [space.label(values) for values in space.grid()] == [
        "ffn 0.2, 1 prune.width windows 2, 2 quantize.rtn windows 4",
        "ffn 0.2, 1 prune.width windows 2, 2 quantize.rtn windows 8",
    ]
    inner = [{"stage": "prune.width", "ffn": {"sweep": [0.1]}}, {"stage": "prune.width", "ffn": {"sweep": [0.3]}}]
    document["stages"] = [{"stage": "quantize.rtn"}, {"repeat": 2, "stages": inner}]
    document["seed"] = {"sweep": [1]}
    space = read(document)
    assert space.label(next(space.grid())) == "2.1 prune.width ffn 0.1, 2.2 prune.width ffn 0.3, seed 1"


def test_a_setting_has_one_name_in_the_sweep_and_in_every_variant(document: dict[str, Any]) -> None:
    document["stages"][1] |= {"bits_of": {"layers.1.*": {"sweep": [4, 8]}, "head": 8}, "seed": {"sweep": [3]}}
    document["stages"][0] |= {"windows": {"sweep": [2]}, "ffn": {"sweep": [0.2]}}
    document["stages"].append({"stage": "prune.width", "windows": {"sweep": [4]}})
    space = read(document | {"sweep": {"orders": [[2, 1, 0], [0, 1, 2], [1, 0]]}})
    everything = list(space.grid())
    called = names(everything[0], space.document)
    expected = ["ffn", "1 prune.width windows", "layers.1.*", "2 quantize.rtn seed", "3 prune.width windows", "order"]
    assert list(called.values()) == expected
    document = whole([(values, space.assign(values, 1)) for values in everything])
    assert names(everything[0], document) == called
    for values in everything:
        assert label(values, document) == space.label(values)


def test_orders_are_told_by_their_stages(document: dict[str, Any]) -> None:
    """By whoever has not the recipe before them; a stage that is left out is named, and one of a name says which."""
    entries = ["prune.width", "prune.depth", "distill.logit", "prune.width", "quantize.rtn"]
    rounds = {"repeat": 2, "stages": [{"stage": "prune.width"}, {"stage": "finetune.full"}]}
    document["stages"] = [*({"stage": name} for name in entries), rounds]
    orders = [[1, 0, 3, 2, 4, 5], [0, 2, 3, 4, 5], [4, 0, 3, 5]]
    space = read(document | {"sweep": {"orders": orders}})
    last = "2 × (width → finetune)"
    assert [space.label(values) for values in space.grid()] == [
        f"depth → width → width 2 → distill → rtn → {last}",
        f"width → distill → width 2 → rtn → {last}, without depth",
        f"rtn → width → width 2 → {last}, without depth and distill",
    ]
    briefly = [short(values, space.document, orders) for values in space.grid()]
    assert briefly == ["depth→width→width 2→distill→rtn", "no depth", "rtn→width→width 2"]  # all end alike


def test_names_for_short_lists_stay_different(document: dict[str, Any]) -> None:
    document["stages"][0] |= {"learning_rate": {"sweep": [1e-4]}, "temperature": {"sweep": [2]}, "ffn": {"sweep": [1]}}
    space = read(document)
    (values,) = space.grid()
    assert short({"stages.0.learning_rate": 0.03516271782664421}, space.document) == "lr 0.0352"
    assert sorted(short(values, space.document).split(", ")) == ["ffn 1", "lr 0.0001", "temp 2"]
    document["stages"][0] |= {"load_rows": {"sweep": [3]}}
    space = read(document)
    (values,) = space.grid()
    assert short(values, space.document) == space.label(values)


def test_mlflow_tells_the_orders_of_the_shipped_sweep_apart() -> None:
    """On an axis it shows the first and the last three letters of a value, in its list of runs some twenty."""
    document = recipe_yaml.parse(recipe_yaml.read_text(CONF / "sweep.yaml"), "conf/sweep.yaml")
    orders = [*document["sweep"]["orders"], [0, 2, 3]]
    document["sweep"]["orders"] = list(map(list, dict.fromkeys(map(tuple, orders))))
    space = read(document)
    briefly = [short_order(order, space.document, space.search.orders) for order in space.search.orders]
    shown = {text if len(text) <= 9 else f"{text[:3]}...{text[-3:]}" for text in briefly}
    assert len(shown) == len(briefly) == 4 and "no depth" in shown
    names = [f"{n:02} {short(values, space.document, orders)}" for n, values in enumerate(space.grid(), start=1)]
    assert len({name[2:22] for name in names}) == len(names)
