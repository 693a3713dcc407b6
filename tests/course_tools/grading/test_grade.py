"""A class is graded once and for all: kills lose nothing, a seed gives the same marks again."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from course_tools.grading.grade import Grader, grade_all, secret_of
from course_tools.grading.read_notebook import read_notebook
from course_tools.grading.results import GRADED, Store, write_whole
from course_tools.grading.submissions import Submission, find_submissions, known_notebooks
from course_tools.sandbox.backends import Bubblewrap, Limits, SandboxError, SeparateUser, Unsafe
from tests.helpers.attacks import BOMBS, HONEST
from tests.helpers.exercise_bank import ROOT, bank
from tests.helpers.made_class import as_file, filled, mistaken, solutions

CHAPTER = 2


def first_usable():
    return next(b for b in (Bubblewrap(), SeparateUser(), Unsafe()) if b.missing() is None)


def notebook(**changes):
    answers = solutions(CHAPTER) | {k.replace("_", "."): v for k, v in changes.items()}
    return as_file(filled(CHAPTER, answers))


def submission(student, data):
    read = read_notebook(data, known_notebooks(bank()))
    file = f"{student}.ipynb"
    return Submission(student, student.title(), {}, file, read.cells, read.answers, read.chapter)


def made(count):
    """Right, wrong, right, wrong..."""
    wrong = mistaken("2.2")[1]
    return [
        submission(f"student{i}", notebook() if i % 2 == 0 else notebook(**{"2_2": wrong}))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def backend():
    chosen = first_usable()
    yield chosen
    chosen.close()


@pytest.fixture(scope="module")
def graded(backend, tmp_path_factory):
    """Three submissions, the second of which does all it can to stop the run."""
    out = tmp_path_factory.mktemp("marks")
    bomb = HONEST + BOMBS["kill_parent"].source
    class_ = made(3)
    class_[1] = submission("student1", notebook(**{"2_2": bomb}))
    grader = Grader(bank(), backend, "a seed")
    return grader, class_, out, {r.student: r for r in grade_all(grader, class_, out, 2)}


def test_one_submission_never_stops_the_rest(graded):
    _, class_, _, results = graded
    assert set(results) == {s.student for s in class_}
    for name in ("student0", "student2"):
        assert results[name].status == GRADED
        assert results[name].earned == results[name].points > 0
    hurt = results["student1"]
    assert hurt.status == GRADED
    lost = {e.number for e in hurt.exercises if e.earned < e.points}
    assert lost == {"2.2"}, "what one answer does must not touch the others"


def test_a_notebook_handed_in_before_the_second_round_still_gets_its_marks(backend, tmp_path):
    """The share of the points that the tree of the tag `before-second-round` gave each answer."""
    file = ROOT / "tests" / "data" / "handed_in_before_second_round.ipynb.json"
    (one,) = find_submissions([file], bank()).submissions
    (result,) = grade_all(Grader(bank(), backend, "a seed"), [one], tmp_path)
    shares = {e.number: e.earned / e.points for e in result.exercises}
    assert shares == {"2.1": 1, "2.2": 0.2, "2.3": 1, "2.4": 1, "2.5": 1, "2.6": 0}
    assert {e.number: e.status for e in result.exercises}["2.6"] == "not done"
    assert {e.number: e.misconception for e in result.exercises}["2.2"] == "polarity inverted"


class Closed(Bubblewrap):
    """A back end that must not be asked."""

    def start(self, stage, limits, slot=0):
        raise SandboxError("no sandbox should have been started")


def test_what_is_done_is_not_graded_again(graded, monkeypatch):
    grader, class_, out, results = graded
    files = {f: f.stat().st_mtime_ns for f in (out / "submissions").iterdir()}
    closed = Closed()
    closed.name = grader.backend.name
    again = Grader(bank(), closed, "a seed")
    assert {r.student: r for r in grade_all(again, class_, out)} == results
    assert {f: f.stat().st_mtime_ns for f in (out / "submissions").iterdir()} == files


def test_another_seed_another_file_or_other_limits_are_graded_anew(graded):
    grader, class_, _, _ = graded
    keys = {
        grader.key(class_[0]),
        Grader(bank(), grader.backend, "another").key(class_[0]),
        Grader(bank(), grader.backend, "a seed", limits=Limits(64)).key(class_[0]),
        grader.key(replace(class_[0], cells=class_[1].cells)),
        grader.key(replace(class_[0], student="student9")),
    }
    assert len(keys) == 5


def test_the_seed_gives_the_same_marks_and_reasons_again(graded, tmp_path):
    grader, _, _, results = graded
    wrong = submission("student1", notebook(**{"2_2": mistaken("2.2")[1]}))
    first, second = (
        next(iter(grade_all(Grader(bank(), grader.backend, "a seed"), [wrong], tmp_path / name)))
        for name in "ab"
    )
    assert first.exercises == second.exercises
    assert first.seed == second.seed != results["student0"].seed


def test_a_sandbox_that_does_not_start_stops_the_run_and_marks_nobody(tmp_path):
    grader = Grader(bank(), Closed(), "a seed")
    with pytest.raises(SandboxError):
        list(grade_all(grader, made(1), tmp_path))
    assert list((tmp_path / "submissions").iterdir()) == []


def test_a_half_written_result_is_graded_again(graded, tmp_path):
    grader, class_, out, results = graded
    key = grader.key(class_[0])
    text = (out / "submissions" / f"{key}.json").read_text("utf-8")
    for broken in ("", text[: len(text) // 2], "[]", "{}", "null"):
        write_whole(Store(tmp_path).folder / f"{key}.json", broken)
        assert Store(tmp_path).load(key) is None
    assert Store(out).load(key) == results["student0"]


def test_a_folder_keeps_its_seed(tmp_path):
    first = secret_of(tmp_path)
    assert len(first) == 32
    assert secret_of(tmp_path) == secret_of(tmp_path, first) == first
    with pytest.raises(ValueError, match="seed"):
        secret_of(tmp_path, "another")


RUN = """
import sys
sys.path.insert(0, {root!r})
import torch
from pathlib import Path
from tests.helpers.exercise_bank import bank
from tests.course_tools.grading.test_grade import made, first_usable
from course_tools.grading.grade import Grader, grade_all
from course_tools.exercise_bank.load import load_bank
torch.set_num_threads(1)
bank_ = load_bank(Path({root!r}), [2])
for _ in grade_all(Grader(bank_, first_usable(), "a seed"), made({count}), Path({out!r}), 2): pass
"""


def test_kill_9_at_any_moment_loses_no_finished_grade(tmp_path):
    count, seed = 5, int(os.environ.get("COURSE_KILL_SEED", "1"))
    rng = random.Random(seed)
    code = RUN.format(root=str(ROOT), out=str(tmp_path), count=count)
    folder = tmp_path / "submissions"
    done: dict[str, int] = {}
    kills = 0
    for _ in range(12):
        run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        have = len(done)
        # Kill at a random moment after at least one more is there, so that the test ends.
        while run.poll() is None and kills < 3 and len(list(folder.glob("*.json"))) <= have:
            time.sleep(0.02)
        if kills < 3 and run.poll() is None:
            time.sleep(rng.random() * 0.8)
            run.kill()
            kills += 1
        code_ = run.wait(timeout=120)
        now = {f.name: f.stat().st_mtime_ns for f in folder.glob("*.json")}
        assert done.items() <= now.items(), "a finished grade was lost or graded again"
        for name in now:
            assert json.loads((folder / name).read_text("utf-8"))["status"] == GRADED
        done = now
        if code_ == 0:
            break
    assert kills > 0
    assert len(done) == count


def test_a_worker_needs_little_memory_beyond_its_sandbox(backend, tmp_path):
    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1000

    grader = Grader(bank(), backend, "memory")
    large = HONEST + "def causal_mask(n):\n    return np.ones(3_000_000)\n"
    class_ = [*made(2), submission("large", notebook(**{"2_2": large}))]
    list(grade_all(grader, class_[:1], tmp_path))
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    list(grade_all(grader, class_, tmp_path))
    assert resident() - before < 200
