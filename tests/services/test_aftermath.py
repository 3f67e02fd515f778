"""The counts of the kill loop can fail: journals in which something was done again, or went by another name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aftermath import COUNTED, Counts, identities, moved, recomputed

from pipelines import journal
from pipelines.journal import Journal, NullTracker, Record

STEPS = 3  # the origin and two stages
Job = tuple[int, str]
JOBS: list[Job] = [(0, "measure"), (1, "stage"), (1, "measure"), (2, "stage"), (2, "measure")]


def model(step: int) -> str:
    return f"m{step}"


def evaluation(step: int) -> str:
    return f"e{step}"


RESULTS = {(step, what): (model if what == "stage" else evaluation)(step) for step, what in JOBS}


def told(folder: Path, jobs: list[Job], names: Callable[[Job], str] = RESULTS.__getitem__) -> list[Record]:
    """The journal of a run that began these jobs and found all other results; the last step is its end."""
    folder.mkdir()
    written = Journal(folder, NullTracker())
    for step in range(STEPS):
        made = names((step, "stage")) if step else model(0)
        written.write("step", step=step, fingerprint=made)
        for job in [job for job in jobs if job[0] == step]:
            written.write("child", step=step, what=job[1])
        written.write("measured", step=step, row={"evaluation": names((step, "measure"))})
    written.close()
    return journal.read(folder)


@pytest.fixture
def undisturbed(tmp_path: Path) -> list[Record]:
    return told(tmp_path / "undisturbed", JOBS)


def test_going_on_where_it_stopped_counts_nothing(undisturbed: list[Record], tmp_path: Path) -> None:
    reference = identities(undisturbed)
    assert reference == RESULTS | {(0, "stage"): model(0)}
    for done in range(len(JOBS) + 1):
        before = {RESULTS[job] for job in JOBS[:done]}
        records = told(tmp_path / f"{done}", JOBS[done:])
        assert recomputed(records, before, 0, reference) == [] == moved(records, reference)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job[1]} {job[0]}")
def test_a_job_whose_result_was_there_counts(undisturbed: list[Record], tmp_path: Path, job: Job) -> None:
    reference, said = identities(undisturbed), [f"{job[1]} of step {job[0]}"]
    records = told(tmp_path / "after", [job])
    assert recomputed(records, {RESULTS[job]}, 0, reference) == said
    assert recomputed(records, set(RESULTS.values()) - {RESULTS[job]}, 0, reference) == []
    twice = told(tmp_path / "twice", [job, job])
    assert recomputed(twice, set(), 0, reference) == said  # of a run that went on while a server was away


def test_what_was_begun_before_the_strike_does_not_count(undisturbed: list[Record]) -> None:
    reference, before = identities(undisturbed), set(RESULTS.values())
    begun = [record["time"] for record in undisturbed if record["kind"] == "child"]
    assert recomputed(undisturbed, before, begun[-1], reference) == []
    assert recomputed(undisturbed, before, begun[-2], reference) == ["measure of step 2"]
    assert len(recomputed(undisturbed, before, 0, reference)) == len(JOBS)


def test_a_fingerprint_that_moves_counts_as_moved_and_as_work_done_again(
    undisturbed: list[Record], tmp_path: Path
) -> None:
    reference = identities(undisturbed)
    shifted = {(2, "stage"): "m9", (2, "measure"): "e9"}
    records = told(tmp_path / "after", list(shifted), lambda job: shifted.get(job) or RESULTS[job])
    assert moved(records, reference) == ["stage of step 2 is m9 and not m2", "measure of step 2 is e9 and not e2"]
    assert recomputed(records, set(RESULTS.values()), 0, reference) == ["stage of step 2", "measure of step 2"]


@pytest.mark.parametrize("name", COUNTED)
def test_every_count_is_part_of_the_total(name: str) -> None:
    counts = Counts()
    counts.add(name, ["something"])
    assert counts.total == 1 and counts.notes == [f"{name}: something"]
