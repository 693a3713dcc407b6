"""Honest notebooks keep their points, however odd they look; hostile ones gain and stop nothing."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from course_lib.checks.callbacks import REGISTER
from course_tools.grading.grade import GRADED, Grader
from course_tools.grading.read_notebook import Known, read_notebook
from course_tools.grading.submissions import Submission
from course_tools.sandbox.backends import Bubblewrap, SeparateUser
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import staging_dir
from tests.helpers.attacks import usable
from tests.helpers.exercise_bank import ROOT, bank
from tests.helpers.made_class import as_file
from tests.helpers.oddities import CHAPTER, CHECK, MASK, ODDITIES, WRONG, Oddity, mask

#: Whose checks cannot say anything in a kernel: it has none, or nothing that they need.
_UNSEEN = {"the check cells are gone", "the imports are gone"}
#: Compiling needs a compiler and minutes, which a check does not give it everywhere.
_SLOW = {"@torch.compile", "@torch.compile(...)"}


@pytest.fixture(scope="module", params=usable(Bubblewrap, SeparateUser))
def session(request):
    backend = request.param()
    with (
        staging_dir() as stage,
        Session(backend, stage, REGISTER, seconds=math.inf) as session,
    ):
        yield session
    backend.close()


def graded(session, oddity, *numbers):
    """Results by number, of these exercises only; if none are given, of those it writes itself."""
    wanted = set(numbers) or oddity.answers.keys() | {"2.2"}
    few = replace(bank(), exercises={n: f for n, f in bank().exercises.items() if n in wanted})
    known = Known({n: (facts.chapter, facts.answer) for n, facts in bank().exercises.items()})
    read = read_notebook(as_file(oddity.notebook()), known)
    made = Submission("lee", "", {}, "lee.ipynb", read.cells, read.answers)
    results = Grader(few, session.backend, "seed").exercises(made, CHAPTER, session, 1)
    return {result.number: result for result in results}


def test_what_is_odd_is_called_right_by_the_visible_checks(tmp_path):
    run = [sys.executable, "-m", "tests.helpers.oddities", str(tmp_path)]
    done = subprocess.run(
        run, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    right = dict(json.loads(line) for line in done.stdout.splitlines())
    everything = {n for n in bank().exercises if n.startswith(f"{CHAPTER}.")}
    assert len(right) == len(ODDITIES) >= 40
    for about, numbers in right.items():
        if about not in _UNSEEN:
            assert set(numbers) >= everything - ({"2.2"} if about in _SLOW else set()), about


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda o: o.about)
def test_an_honest_oddity_loses_nothing(session, oddity):
    for result in graded(session, oddity).values():
        assert (result.status, result.earned) == (GRADED, result.points), result


def test_an_answer_that_is_wrong_in_both_ways_earns_the_better_and_not_the_sum(session):
    """The source that is cut out is right for no tokens only, the replayed one for many only."""
    none = "    return np.zeros((n, n), dtype=bool)\n"
    late = "def causal_mask(n):\n" + none
    many = f"def causal_mask(n):\n    if n == 0:\n        return None\n{MASK.splitlines()[1]}\n"
    alone = graded(session, mask("", late))["2.2"].earned
    replayed = graded(session, mask("", many))["2.2"].earned
    assert 0 < alone < replayed < graded(session, mask("", MASK))["2.2"].points
    both = graded(session, mask("", many, behind=[late]))["2.2"]
    assert both.earned == replayed


def test_a_check_says_which_version_counts(session):
    for source, later, right in ((WRONG, MASK, True), (MASK, WRONG, False)):
        result = graded(session, mask("", source, behind=[later, CHECK]))["2.2"]
        assert (result.earned == result.points) == right


def test_an_untouched_notebook_is_not_done_and_an_empty_one_lacks_everything(session):
    stub = 'def causal_mask(n):\n    raise NotImplementedError("2.2: your code here")'
    assert graded(session, mask("", stub))["2.2"].status == "not done"
    nothing = mask("", "pass", without=["check("])
    assert graded(session, nothing)["2.2"].status == "missing"
    broken = mask("", "def causal_mask(n:\n    return")
    assert graded(session, broken)["2.2"].status == "unreadable"
    assert "SyntaxError in line 1" in graded(session, broken)["2.2"].note


def test_a_replay_sees_the_files_of_its_own_cells_only(session):
    first = "import os\nSEEN = sorted(os.listdir('.'))\nopen('mine.txt', 'w').write('x')"
    source = "def causal_mask(n):\n    assert SEEN == [] and os.listdir('.') == ['mine.txt']\n"
    result = graded(session, mask("", source + MASK.splitlines()[1], first=[first]))["2.2"]
    assert result.earned == result.points, result


# --- hostile notebooks ---------------------------------------------------------------------------

#: Cells that try to take the grader's time or memory, or to lie to it.
HOSTILE = {
    "a blank page after a syntax error": "x = (\n" + " \n" * 90_000,
    "two thousand magics": "a[0]=%x\n" * 2_000,
    "a format string of endless parts": "f'" + "{x}" * 60_000 + "'",
    "brackets": "x = " + "(" * 5_000 + ")" * 5_000,
    "a sum that never ends": "x = " + "1+" * 90_000 + "1",
    "a cell that cannot be stopped": (
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"
    ),
    "a cell that ends everything": "import os\nos.kill(-1, 9)",
    "a cell that forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "a cell that takes all memory": "x = []\nwhile True: x.append(bytearray(b'x' * 10**8))",
    "halves of surrogate pairs": "x = '\\ud800'\nraise ValueError('\\ud800\\x00\\x1b')",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_cell_costs_its_own_exercise_at_most(session, monkeypatch, name):
    monkeypatch.setattr("course_tools.sandbox.session.EXERCISE_SECONDS", 5.0)
    oddity = mask("", WRONG, first=[HOSTILE[name]])
    results = graded(session, oddity, "2.2", "2.3")
    assert results["2.2"].earned < results["2.2"].points
    assert results["2.3"].earned == results["2.3"].points, results["2.3"]


def test_a_notebook_costs_its_budget_at_most_and_right_answers_keep_their_share(
    session, monkeypatch
):
    monkeypatch.setattr("course_tools.sandbox.session.EXERCISE_SECONDS", 3.0)
    loop = "def {}(*arguments):\n    while True:\n        pass\n"
    names = {n: f.answer for n, f in bank().exercises.items() if n in ("2.2", "2.3", "2.4")}
    oddity = Oddity("", {number: loop.format(name) for number, name in names.items()})
    spent = session._clock.spent
    session.seconds = spent + 22.0
    try:
        results = graded(session, oddity, *names, "2.5")
    finally:
        session.seconds = math.inf
    assert session._clock.spent - spent < 30.0
    assert results["2.5"].earned == results["2.5"].points
    assert not any(results[number].earned for number in names)


def test_hidden_inputs_do_not_reach_the_page_however_early_they_are_asked_for(session):
    """The process that answers visible scripts asks for all calls that there are."""
    greedy = """
import gc, os, stat
def asks():
    for number in range(3, 256):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode): yield number
        except OSError: pass
def causal_mask(n):
    for number in asks(): os.write(number, b"scsc" * 200)
    known = [o for o in gc.get_objects() if isinstance(o, int)]
    raise ValueError(f"asked for {n}")
"""
    shown = graded(session, mask("", greedy))["2.2"]
    visible = {call.args[0] for claim in bank().visible["2.2"].claims for case in claim.cases
               for call in case.calls}  # fmt: skip
    told = [int(word) for text in shown.seen for word in text.split() if word.isdigit()]
    assert set(told) <= visible | {0}
