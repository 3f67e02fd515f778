"""The report as a page: it says what the figures say, escapes what others wrote, and asks nobody for anything."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from attar.errors import BadInput
from pipelines import best, cli, html_report, journal, report, shipping, step_inputs, waterfall
from pipelines.gates import Decision
from pipelines.home import Home
from pipelines.html_page import element, page
from pipelines.report import Report, Row, interval
from pipelines.sweep import FILE, TRIALS

if TYPE_CHECKING:
    from tests.pipelines.conftest import Attar, Shelf

MB = 1_000_000
EVIL = "<script>alert(1)</script>"
ASKING = {"src", "href", "srcset", "action", "data", "background", "poster", "xlink:href", "ping", "formaction"}


class Parsed(HTMLParser):
    """A page as a browser reads it: its tags with their attributes, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
            return
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def stands_alone(text: str) -> Parsed:
    """Asserts that a page is whole, holds no code, and refers to nothing outside of itself."""
    parsed = Parsed(text)
    assert parsed.open == [] and text.startswith("<!doctype html>")
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "a"}
    for _, attributes in parsed.tags:
        assert not set(attributes) & ASKING and not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes
    assert "url(" not in "".join(parsed.styles) and "@import" not in "".join(parsed.styles)
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return parsed


@pytest.fixture
def swept(shelf: "Shelf") -> "Shelf":
    """A sweep of four variants over two settings, one that failed besides; each a run of its own."""
    lines = []
    for number, (ffn, bits, size, more) in enumerate(
        [(0.1, 8, 90, 0.02), (0.1, 4, 50, 0.10), (0.3, 8, 80, 0.20), (0.3, 4, 40, 0.28)], start=1
    ):
        run = f"2026-{number}-mine-0{number}"
        row = shelf.run(run, f"mine-0{number}", (f"m{number}", size * MB, more))[-1]
        stages = [{"stage": "prune.width", "ffn": ffn}, {"stage": "quantize.rtn", "bits": bits}]
        recipe = {"name": f"mine-0{number}", "model": "some/origin", "stages": stages}
        (shelf.home.runs / run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        values = {"stages.0.ffn": ffn, "stages.1.bits": bits}
        lines.append(
            {"number": number, "values": values, "status": "finished", "run": run, "text": "", "row": vars(row)}
        )
    failed = {"number": 5, "values": {"stages.0.ffn": 0.9, "stages.1.bits": 4}, "status": "failed", "run": ""}
    lines.append(failed | {"text": f"it broke {EVIL}", "row": None})
    folder = shelf.home.root / "sweeps" / "mine-0123abcd"
    folder.mkdir(parents=True)
    (folder / TRIALS).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return shelf


def rows_of(parsed: Parsed) -> Iterator[list[str]]:
    return ([cell.strip() for cell in cells] for cells in parsed.cells)


def test_the_page_of_a_run_says_what_its_report_says(finished: dict[str, Any], attar: "Attar") -> None:
    folder = attar.home / "runs" / finished["run"]
    written = folder / html_report.FILE
    assert written.is_file()  # by the run itself
    assert str(written) in next(attar_end["files"] for attar_end in attar.records(finished["run"], "end-run"))
    assert not [one for one in attar.records(finished["run"], "warning") if html_report.FILE in one["text"]]
    parsed = stands_alone(written.read_text())
    made = Report.from_json(finished)
    found = {tuple(cells) for cells in rows_of(parsed)}
    kept = [place for place in range(len(report.COLUMNS)) if any(report.cells(r)[place] != "–" for r in made.rows)]
    for row in made.rows:
        assert tuple(report.cells(row)[place] for place in kept) in found
        assert row.fingerprint in parsed.text
    final = made.final
    whole = final.compression_ratio * final.bytes / 1e6
    sizes = f"({final.bytes / 1e6:.1f} of {whole:.1f} MB)"
    headline = f"{final.compression_ratio:.2f}× smaller than the origin in bf16 {sizes}, keeps"
    assert f"{made.recipe}: {headline} {interval(final)} of its quality" in parsed.text
    for change in waterfall.changes(made):
        assert change.told_quality in parsed.text and change.told_bytes in parsed.text
    assert f"attar run {folder / 'recipe.yaml'} --home {attar.home}" in parsed.text


def test_the_recipe_on_the_page_is_the_recipe(finished: dict[str, Any], attar: "Attar") -> None:
    folder = attar.home / "runs" / finished["run"]
    parsed = stands_alone((folder / html_report.FILE).read_text())
    shown = next(text for text in parsed.texts if text.startswith("name: "))
    assert yaml.safe_load(shown) == yaml.safe_load((folder / "recipe.yaml").read_text())


def test_teachers_and_sources_are_those_of_the_journal(finished: dict[str, Any], attar: "Attar") -> None:
    made = Report.from_json(finished)
    nodes = step_inputs.read(made, journal.read(attar.home / "runs" / finished["run"]))
    assert [node.step for node in nodes] == [row.step for row in made.rows]
    for record in attar.records(finished["run"], "step"):
        node = nodes[record["step"]]
        assert node.fingerprint == record["fingerprint"] and node.inputs == record["inputs"]
        assert (node.teacher is not None) == ("teacher" in record["inputs"])
    assert nodes[1].teacher == 0 and nodes[2].source == 1


def test_what_each_step_cost_adds_up(finished: dict[str, Any]) -> None:
    made = Report.from_json(finished)
    found = waterfall.changes(made)
    assert [change.label for change in found] == [row.label for row in made.rows if row.step and row.pairs is None]
    assert sum(change.bytes for change in found) == made.final.bytes - made.rows[0].bytes
    assert sum(change.quality for change in found) == pytest.approx(made.final.retained - 1)


def test_a_sweep_says_which_to_ship_and_why(swept: "Shelf", tmp_path: Path) -> None:
    out = html_report.write(swept.home, ["mine"], tmp_path / "page.html")
    parsed = stands_alone(out.read_text())
    rows = {n: report.load(swept.home.runs / f"2026-{n}-mine-0{n}").final for n in (1, 2, 3, 4)}  # type: ignore[union-attr]
    assert "Best of these: 01 (ffn 0.1, bits 8): " in parsed.text and interval(rows[1]) in parsed.text
    assert "The recipe has no gates, so nobody has said what is good enough." in parsed.text
    assert "Worse beyond doubt: 02, 03, 04" in parsed.text
    assert "If it must be smaller: 02, 50.0 MB" in parsed.text and "; 04, 40.0 MB" in parsed.text
    table = [cells for cells in rows_of(parsed) if len(cells) > 5 and cells[1] in ("01", "02", "03", "04")]
    assert [cells[:2] for cells in table] == [["★", "01"], ["◆", "02"], ["◆", "04"], ["○", "03"]]
    assert "★ the choice, ◆ on the front: none is smaller and better, ○ another is as small and better." in parsed.texts
    for cells in table:
        row = rows[int(cells[1])]
        assert interval(row) in cells and f"{row.bytes / 1e6:.1f} MB" in cells
    assert "ffn: 0.1 keeps most" in parsed.text and "worse: 0.3" in parsed.text
    assert "bits: 8 keeps most" in parsed.text and "worse: 4" in parsed.text
    assert f"05 (ffn 0.9, bits 4) failed: it broke {EVIL}" in parsed.text


def test_a_sweep_can_be_made_again_from_its_page(swept: "Shelf", tmp_path: Path) -> None:
    file = swept.home.root / "sweeps" / "mine-0123abcd" / FILE
    page = html_report.write(swept.home, ["mine"], tmp_path / "page.html")
    assert "attar sweep" not in page.read_text()  # of one that an Attar from before has begun
    file.write_text("name: mine\nstages: [{stage: prune.width, ffn: {sweep: [0.1, 0.3]}}]\n")
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    assert f"attar sweep {file} --home {swept.home.root}" in parsed.text and file.read_text() in parsed.texts


def test_orders_are_told_as_everywhere(swept: "Shelf", tmp_path: Path) -> None:
    """By short names of the stages; variants that lack one say so, though no page has the sweep's recipe."""
    trials = swept.home.root / "sweeps" / "mine-0123abcd" / TRIALS
    lines = [json.loads(line) for line in trials.read_text().splitlines()]
    stages = [{"stage": "prune.width", "ffn": 0.1}, {"stage": "distill.logit"}, {"stage": "quantize.rtn", "bits": 4}]
    orders = [[0, 1, 2], [1, 0, 2], [0, 2], [0, 1]]
    for order, line in zip(orders, lines, strict=False):
        line["values"] = {"order": order}
        recipe = swept.home.runs / line["run"] / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"stages": [stages[p] for p in order]}))
    lines[4]["values"] = {"order": [2, 1]}
    trials.write_text("\n".join(map(json.dumps, lines)) + "\n")
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    words = ["width → distill → rtn", "distill → width → rtn", "width → rtn, without distill"]
    words.append("width → distill, without rtn")
    assert (
        f"Best of these: 01 ({words[0]})" in parsed.text and "05 (rtn → distill, without width) failed" in parsed.text
    )
    assert {cell for cells in rows_of(parsed) for cell in cells} >= set(words)


def test_the_choice_is_that_of_best(shelf: "Shelf", tmp_path: Path) -> None:
    shelf.run("2026-1-large", "large", ("large", 90 * MB, 0.02))
    shelf.run("2026-2-noisy", "noisy", ("noisy", 30 * MB, 0.03))
    found = best.choose(shelf.home)
    out = html_report.write(shelf.home, ["large", "noisy"], tmp_path / "page.html")
    text = stands_alone(out.read_text()).text
    headline = text.partition("smaller than the origin")[0]
    recipes = {recipe for recipe in ("large", "noisy") if f"(recipe {recipe}" in headline}
    assert recipes == {found.smallest.recipe}


def test_runs_of_different_recipes_go_on_one_page(swept: "Shelf", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept.home.root)
    runs = ["2026-1-mine-01", "2026-4-mine-04"]
    out = html_report.write(swept.home, runs, None)
    assert out == swept.home.root / "report-mine-01-and-mine-04.html"
    parsed = stands_alone(out.read_text())
    assert "Best of these: 1 (recipe mine-01" in parsed.text and "Worse beyond doubt: 2" in parsed.text
    assert html_report.write(swept.home, ["mine-04"], None) == swept.home.runs / runs[1] / html_report.FILE
    assert html_report.write(swept.home, [], None) == swept.home.runs / runs[1] / html_report.FILE  # the newest


def test_what_a_gate_stopped_is_not_shipped(swept: "Shelf", tmp_path: Path) -> None:
    folder = swept.home.runs / "2026-1-mine-01"
    found = report.load(folder)
    assert found is not None
    broken = Decision(0, "bytes ≤ 60MB", 1, "1 m1", False, "stop", "bytes ≤ 60MB is not kept: 90.0 MB")
    report.save(replace(found, gates=(broken,)), folder)
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    assert "Best of these: 02 (ffn 0.1, bits 4)" in parsed.text and "a gate was not kept" in parsed.text
    assert "01 (ffn 0.1, bits 8) after 1 m1: bytes ≤ 60MB is not kept: 90.0 MB" in parsed.text
    alone = stands_alone(html_report.write(swept.home, [folder.name], None).read_text())
    assert "Do not ship it: ✗ gate after 1 m1: bytes ≤ 60MB is not kept: 90.0 MB" in alone.text


def _edit(swept: "Shelf", number: int, **changes: Any) -> None:
    """Write other things into a variant's folder: its recipe's gates, or how its journal says that it ended."""
    folder = swept.home.runs / f"2026-{number}-mine-0{number}"
    if "gates" in changes:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
    if "status" in changes:
        end = {"kind": "end-run", "status": changes["status"], "text": ""}
        (folder / "journal.jsonl").write_text(f"{json.dumps(end)}\n" if changes["status"] else "")


@pytest.mark.parametrize(("status", "told"), [("failed", "failed"), ("cancelled", "was cancelled"), ("", "has not")])
def test_what_has_not_finished_is_not_chosen(swept: "Shelf", tmp_path: Path, status: str, told: str) -> None:
    _edit(swept, 1, status=status)
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    assert "Best of these: 02 (ffn 0.1, bits 4)" in parsed.text and "not ranked with these" in parsed.text
    (line,) = [cells for cells in rows_of(parsed) if cells[:2] == ["△", "01"]]
    assert any(cell.startswith(told) for cell in line)


def test_shipping_needs_gates_that_were_judged(swept: "Shelf", tmp_path: Path) -> None:
    _edit(swept, 1, gates=[{"measure": "bytes", "max": "95MB"}])
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    assert "Best of these: 01" in parsed.text and "Its gates were not judged yet." in parsed.text
    folder = swept.home.runs / "2026-1-mine-01"
    found = report.load(folder)
    assert found is not None
    kept = Decision(0, "bytes ≤ 95MB", 1, "1 m1", True, "stop", "bytes ≤ 95MB is kept: 90.0 MB")
    report.save(replace(found, gates=(kept,)), folder)
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    assert (
        "Ship 01 (ffn 0.1, bits 8)" in parsed.text and "nobody has said" not in parsed.text.partition("The others")[0]
    )


def test_what_is_better_is_not_called_worse(shelf: "Shelf", tmp_path: Path) -> None:
    """Both keep all of the quality, which is capped at 100 %; the larger one has lower losses still."""
    shelf.run("2026-1-large", "large", ("large", 90 * MB, -0.2))
    shelf.run("2026-2-small", "small", ("small", 30 * MB, -0.05))
    parsed = stands_alone(html_report.write(shelf.home, ["large", "small"], tmp_path / "page.html").read_text())
    assert "Better beyond doubt, but larger: 1" in parsed.text and "Worse beyond doubt" not in parsed.text
    assert any("better, but larger" in cells for cells in rows_of(parsed))


def test_what_was_measured_otherwise_stands_apart(shelf: "Shelf", tmp_path: Path) -> None:
    """It is the best and the smallest, and yet neither chosen nor called worse."""
    shelf.run("2026-1-mine", "mine", ("m1", 50 * MB, 0.1))
    shelf.run("2026-2-mine", "mine", ("m2", 60 * MB, 0.05))
    shelf.run("2026-3-other", "other", ("m3", 20 * MB, 0.01), windows=8)
    out = html_report.write(shelf.home, ["2026-3-other", "2026-1-mine", "2026-2-mine"], tmp_path / "page.html")
    parsed = stands_alone(out.read_text())
    marks = {cells[1]: cells[0] for cells in rows_of(parsed) if len(cells) > 5 and cells[1] in ("1", "2", "3")}
    assert marks["1"] == "△" and {marks["2"], marks["3"]} == {"★", "◆"}
    assert any("not comparable" in cells for cells in rows_of(parsed))


def test_an_origin_in_fp32_is_compared_as_bf16(shelf: "Shelf") -> None:
    row = replace(shelf.run("2026-1-mine", "mine", ("m", 50 * MB, 0.1))[1], compression_ratio=2.0)
    assert shipping.came_to(row).startswith("2.00× smaller than the origin in bf16 (50.0 of 100.0 MB), keeps ")


def test_what_others_wrote_stays_text(shelf: "Shelf", tmp_path: Path) -> None:
    rows = shelf.run("2026-evil", EVIL, ("m", 50 * MB, 0.1))
    folder = shelf.home.runs / "2026-evil"
    named = replace(rows[1], name=EVIL, note=EVIL, tasks={EVIL: {"value": 0.5}}, folder=EVIL)
    gate = Decision(0, EVIL, 1, EVIL, True, "go on", EVIL, EVIL, 0.5, ({"value": 1, "kept": True, "text": EVIL},))
    report.save(Report("2026-evil", EVIL, (rows[0], named), (gate,)), folder)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"name": EVIL, "model": '"><img src=x onerror=y>', "stages": []})
    )
    answers = {row.label: f"{EVIL}\x00\x1b[31m & \u202e" for row in (rows[0], named)}
    (folder / "samples.json").write_text(json.dumps([{"prompt": f"</td>{EVIL}", "answers": answers}]))
    events = [
        {"kind": "run", "recipe": {}, "machine": {"device": EVIL}, "environment": {}},
        {"kind": "metrics", "step": 1, "points": [["loss", 1.0, 0, 0.0], ["loss", 0.5, 1, 1.0]]},
        {"kind": "end-run", "status": "failed", "text": EVIL},
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    written = html_report.write(shelf.home, ["2026-evil"], tmp_path / "page.html").read_text()
    parsed = stands_alone(written)
    assert EVIL not in written and parsed.text.count(EVIL) > 10
    assert "The run failed: " in parsed.text and "\x00" not in written and "\x1b" not in written
    assert "&amp;" not in parsed.text  # nothing is escaped twice


def test_an_element_escapes_what_is_not_html() -> None:
    inner = element("b", "<i>", title='a "quoted" <name>')
    assert inner == '<b title="a &quot;quoted&quot; &lt;name&gt;">&lt;i&gt;</b>'
    assert element("p", inner, ["&", None, 1, 0.333], hidden=False) == f"<p>{inner}&amp;10.33</p>"
    assert "<title>&lt;x&gt;</title>" in page("<x>")
    stands_alone(page("\ud800"))  # which UTF-8 cannot hold
    page("\ud800").encode()


@pytest.mark.parametrize("name", ["nothing", "../runs", "", "2026-1*", "/etc"])
def test_an_unknown_run_is_a_sentence_with_the_known_ones(swept: "Shelf", name: str) -> None:
    with pytest.raises(BadInput) as error:
        html_report.write(swept.home, [name], None)
    text = str(error.value)
    assert f"there is no run, sweep or recipe {name!r}" in text and "sweeps: mine" in text
    assert "recipes: mine-01, mine-02" in text and "the newest runs: 2026-4-mine-04" in text


def test_nothing_to_show_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(BadInput, match=r"there is no run in .*; start one with: attar run RECIPE"):
        html_report.write(home, [], None)
    (home.runs / "2026-new").mkdir(parents=True)
    with pytest.raises(BadInput, match="2026-new has measured nothing yet"):
        html_report.write(home, ["2026-new"], None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "2026-old", "--home", str(home.root)])
    assert ended.value.code == 2 and "there is no run, sweep or recipe '2026-old'" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_sentence(swept: "Shelf", tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be written to .*; name another file with --out"):
        html_report.write(swept.home, ["mine"], tmp_path / "nowhere" / "page.html")
    with pytest.raises(BadInput, match="cannot be written"):
        html_report.write(swept.home, ["mine"], tmp_path)


def test_measurements_that_are_gone_leave_the_figures(swept: "Shelf", tmp_path: Path) -> None:
    shutil.rmtree(swept.home.root / "store")
    parsed = stands_alone(html_report.write(swept.home, ["mine"], tmp_path / "page.html").read_text())
    assert "no model here may be chosen" in parsed.text and "90.0 MB" in parsed.text
    alone = html_report.write(swept.home, ["2026-1-mine-01"], tmp_path / "one.html")
    assert "90.0 MB" in stands_alone(alone.read_text()).text


def test_every_row_of_a_report_may_be_of_a_dataset(shelf: "Shelf", tmp_path: Path) -> None:
    rows: list[Row] = shelf.run("2026-pairs", "pairs", ("m", 50 * MB, 0.1))
    pairs = replace(rows[0], step=1, name="generate.responses", pairs=12, tokens=300)
    made = Report("2026-pairs", "pairs", (rows[0], pairs, replace(rows[1], step=2)))
    report.save(made, shelf.home.runs / "2026-pairs")
    parsed = stands_alone(html_report.write(shelf.home, ["2026-pairs"], tmp_path / "page.html").read_text())
    assert "12 pairs" in parsed.text and "300 tokens" in parsed.text
