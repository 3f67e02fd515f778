"""Measurements keep a score of every document, and verdicts on them hold: noise is seen, and nothing is not."""

import json
import shutil
import sys
from math import exp
from pathlib import Path
from pydoc_data.topics import topics

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import null_sets

from attar import scores
from attar.calibration import BINS
from attar.data import DataSettings
from attar.errors import BadInput
from attar.model import Model
from attar.sources import folder_fingerprint
from attar.stamp import comparable
from attar.statistics import perplexity_retained
from attar.store import Store
from attar.suite import Suite
from attar.tiny import tiny_model
from stages.spec import ModelRef


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, workshop: Path) -> Path:
    """Holds evaluations of a tiny model and of the same with noise on a hundredth of its weights."""
    home = tmp_path_factory.mktemp("home")
    model = tiny_model(home / "model")
    ref = ModelRef(folder=str(model), fingerprint=folder_fingerprint(model, home))
    # A row a document, and short ones: few windows hold many.
    rows = {
        "source": (workshop / "text.txt").read_text().split("\n\n"),
        "other": [text[:500] for text in topics.values()],
    }
    for name, texts in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataSettings(source=str(home / "source.jsonl"), other=str(home / "other.jsonl"))
    suite = Suite(windows=12, length=256, speed=False)
    origin = null_sets.measured(ref, ref, None, suite, data, home)
    spoiled = null_sets.add_noise(model, home / "noised")
    other = ModelRef(folder=str(spoiled), fingerprint=folder_fingerprint(spoiled, home))
    names = {"origin": origin, "noised": null_sets.measured(other, ref, origin, suite, data, home)}
    (home / "names.json").write_text(json.dumps(names))
    return home


def evaluation(home: Path, which: str) -> Path:
    return Store(home / "store").folder("evaluation", json.loads((home / "names.json").read_text())[which])


@pytest.mark.parametrize("which", ["origin", "noised"])
def test_the_documents_add_up_to_the_result(home: Path, which: str) -> None:
    result = json.loads((evaluation(home, which) / "result.json").read_text())
    scored = scores.load(evaluation(home, which))
    for text in ("held-out", "other"):
        loss = scored[f"loss/{text}"]
        assert exp(loss.mean) == pytest.approx(result["perplexity"][text], rel=1e-9)
        assert sum(loss.counts) == result["scored_tokens"][text] == 12 * 255
        assert scored[f"bits/{text}"].mean == pytest.approx(result["bits_per_byte"][text], rel=1e-9)
        assert scored[f"sure-wrong/{text}"].mean == pytest.approx(result["confidently_wrong"][text], abs=1e-12)
        bins = [one for name, one in scored.items() if name.startswith(f"gap/{text}/")]
        assert len(bins) == BINS and sum(abs(one.mean) for one in bins) == pytest.approx(
            result["calibration_error"][text], rel=1e-9
        )
        if which == "noised":
            assert scored[f"kl/{text}"].mean == pytest.approx(result["kl"][text], rel=1e-9)
            assert scored[f"agreed/{text}"].mean == pytest.approx(result["agreement"][text], rel=1e-9)
    assert len(scored["loss/other"].ids) >= 6
    assert result["stamp"]["windows"] == 12 and result["stamp"]["data.other"]


def test_noise_touches_a_hundredth_of_the_weights(home: Path) -> None:
    before, after = Model(home / "model"), Model(home / "noised")
    total = sum(before.tensor(name).numel() for name in before.names)
    moved = sum(int((before.tensor(name) != after.tensor(name)).sum()) for name in before.names)
    assert 0.008 < moved / total < 0.011


@pytest.mark.parametrize(("cut", "why"), [("alike", "640 and 512 rows"), ("otherwise", "tokenizer.json differs")])
def test_a_model_of_another_vocabulary_is_measured_without_the_origin(
    home: Path, tmp_path: Path, cut: str, why: str
) -> None:
    """A head that is padded to another size, another tokenizer: what needs the tokens of both is left out."""
    home = Path(shutil.copytree(home, tmp_path / "home"))
    other = tiny_model(home / cut, vocab_size=640)
    if cut == "alike":
        shutil.copy(home / "model" / "tokenizer.json", other)
    origin, ref = (ModelRef(folder=str(f), fingerprint=folder_fingerprint(f, home)) for f in (home / "model", other))
    data = DataSettings(source=str(home / "source.jsonl"), other=str(home / "other.jsonl"))
    suite = Suite(windows=12, length=256, speed=False)
    name = null_sets.measured(ref, origin, evaluation(home, "origin").name, suite, data, home)
    result = json.loads((Store(home / "store").folder("evaluation", name) / "result.json").read_text())
    assert set(result["kl"].values()) == set(result["agreement"].values()) == {None}
    assert why in result["not_beside_origin"] and result["perplexity"]["other"] > 1
    before = json.loads((evaluation(home, "noised") / "result.json").read_text())
    assert (comparable(before, result, "headline") is None) == (cut == "alike")
    assert comparable(before, result, "bits_per_byte") is None and "not_beside_origin" not in before


def test_null_sets_of_two_models_are_rarely_called_different(home: Path) -> None:
    one, two = (scores.load(evaluation(home, which))["loss/other"] for which in ("origin", "noised"))
    assert perplexity_retained(one, two).items == len(one.ids)
    assert null_sets.null_verdicts(one, two, sets=1000) <= 5 * null_sets.ALLOWED


def test_a_table_of_two_evaluations_keeps_the_part_that_was_not_asked_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "null_sets.json"
    out.write_text('{"noise": [1]}')
    names = [evaluation(home, which).name for which in ("origin", "noised")]
    monkeypatch.setattr(sys, "argv", ["null_sets.py", *names, "--home", str(home), "--out", str(out)])
    code = null_sets.main()
    written = json.loads(out.read_text())
    found = written["null_sets"]
    assert written["noise"] == [1] and [one["evaluations"] for one in found] == [names] * 2
    assert (code == 0) == all(one["figures"]["called_different"] <= null_sets.ALLOWED for one in found)
    printed = capsys.readouterr().out
    assert all(one["what"] in printed for one in found)
    with pytest.raises(BadInput, match=r"no two compressed models were measured alike"):
        null_sets.newest_pair(home)
    with pytest.raises(BadInput, match=r"has no evaluation '\.\./x'"):
        null_sets.null_sets("../x", names[0], home)
