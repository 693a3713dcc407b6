"""No submission raises its own score, sees what it must not, outlives its turn or stops the grader.

The attacks are data (`attacks.py`). Many share a sandbox: what one
leaves behind would hit the next.
"""

import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from course_lib.checks.callbacks import REGISTER
from course_lib.checks.script import Call, Callback, Case
from course_tools.exercise_bank.evaluate import draw, evaluate, verdict
from course_tools.sandbox import line as line_module
from course_tools.sandbox import session as session_module
from course_tools.sandbox.backends import Bubblewrap, SeparateUser
from course_tools.sandbox.cgroups import Cgroup, Limits
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import staging_dir
from tests.helpers.attacks import BOMBS, CHEATS, HONEST, LIES, SPEAK, SPIES, usable
from tests.helpers.exercise_bank import bank
from tests.helpers.made_class import text_of

NUMBER, NAME = "2.2", "causal_mask"
LIMITS = Limits(memory_mb=700, processes=60, disk_mb=32)
SEED = 7


@pytest.fixture(scope="module", params=usable(Bubblewrap, SeparateUser))
def backend(request):
    chosen = request.param()
    yield chosen
    chosen.close()


@pytest.fixture(scope="module")
def sandbox(backend):
    """A session that is started again whenever an attack brings it down."""
    with (
        staging_dir() as stage,
        Session(backend, stage, REGISTER, LIMITS, seconds=math.inf) as session,
    ):
        session.run(NUMBER, NAME, HONEST, [])  # start it before anything is timed
        yield session


def source_of(attack):
    first = HONEST + f"{NAME} = honest\n"
    return first + attack.source


def earned(session, source, number=NUMBER):
    """The share of the points of an exercise, as the grader gives it."""
    claims = bank().hidden[number].claims
    drawn = [draw(claim, i, SEED) for i, claim in enumerate(claims)]
    flat = [case for cases in drawn for case in cases]
    outcomes = iter(session.run(number, bank().exercises[number].answer, source, flat))
    shares = [
        claim.weight
        for claim, cases in zip(claims, drawn, strict=True)
        if verdict(claim, cases, [next(outcomes) for _ in cases]) is None
    ]
    return sum(shares) / sum(claim.weight for claim in claims)


def honest_share():
    space = {}
    exec(HONEST, space)
    results = evaluate(space["honest"], bank().hidden[NUMBER], SEED)
    good = sum(claim.weight for claim, wrong in results if wrong is None)
    return good / sum(claim.weight for claim, _ in results)


def highest_memory():
    """Most megabytes that this process ever held, since the last `forget_memory`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def forget_memory():
    Path("/proc/self/clear_refs").write_text("5")


def test_the_honest_body_earns_a_little_and_a_right_one_everything(sandbox):
    assert 0 < honest_share() < 0.5
    assert earned(sandbox, HONEST + f"{NAME} = honest\n") == honest_share()
    right = (
        "import numpy as np\ndef causal_mask(n):\n    return np.tril(np.ones((n, n), dtype=bool))\n"
    )
    assert earned(sandbox, right) == 1.0


@pytest.mark.parametrize("name", [*CHEATS, *BOMBS])
def test_an_attack_earns_no_more_than_its_honest_body(sandbox, name, monkeypatch):
    attack = (CHEATS | BOMBS)[name]
    if attack.slow:
        monkeypatch.setattr(session_module, "EXERCISE_SECONDS", 2.0)
        monkeypatch.setattr(line_module, "STOP_SECONDS", 4.0)
    forget_memory()
    before, begin = highest_memory(), time.monotonic()
    assert earned(sandbox, source_of(attack)) <= honest_share()
    assert highest_memory() - before < 200, "what an attack sends must not fill the grader"
    assert time.monotonic() - begin < 60
    assert not Path("/tmp/course-pickle-ran").exists()


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_memory_or_arguments_earns_nothing(sandbox, name):
    lie = LIES[name]
    if lie.group and Cgroup.make(Limits()) is None:
        pytest.skip("no control group can be made here: limits hold for each process only")
    honest = earned(sandbox, lie.honest, lie.exercise)
    assert honest < 1.0, "there must be something to gain"
    assert earned(sandbox, lie.source + lie.honest + lie.last, lie.exercise) <= honest


def test_nothing_counts_where_no_word_on_the_arguments_came(sandbox, monkeypatch):
    """Attack `witness_killed` wins a race only now and then; here it always does."""
    source = "def f(x):\n    x[0] = 1\n    return 2\n"
    cases = [Case([Call([np.zeros(3)])]), Case([Call([np.zeros(3)])])]
    assert all(outcome.changed for outcome in sandbox.run("0.0", "f", source, cases))
    with monkeypatch.context() as killed:
        killed.setattr(line_module.Line, "stop_exercise", lambda line: False)
        outcomes = sandbox.run("0.0", "f", source, cases)
    assert [(o.problem.kind, o.values) for o in outcomes] == [("died", ())] * 2


def test_the_sandbox_still_works_after_all_of_them(sandbox):
    assert earned(sandbox, HONEST + f"{NAME} = honest\n") == honest_share()


@pytest.mark.parametrize("name", SPIES)
def test_a_spy_finds_nothing(sandbox, name, tmp_path, monkeypatch):
    for place in (tmp_path / "smith", Path.home()):
        place.mkdir(exist_ok=True)
        (place / f"course-canary-{os.getpid()}.txt").write_text("other student's work")
    monkeypatch.setenv("COURSE_SECRET", "canary-of-the-environment")
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox,
        ):
            mailbox.bind(f"\0course-mailbox-{os.getpid()}")
            given = {
                "MAILBOX": mailbox.getsockname(),
                "FOLDERS": [str(tmp_path), str(Path.home()), str(Path.cwd())],
                "SECRET": "canary-of-the-environment",
                "PORT": listener.getsockname()[1],
            }
            source = "".join(f"{k} = {v!r}\n" for k, v in given.items()) + SPIES[name].source
            outcome = sandbox.run("0.0", "loot", source, [Case([Call()], seconds=20)])[0]
            for ours, take in ((listener, listener.accept), (mailbox, lambda: mailbox.recv(1))):
                ours.settimeout(0.01)
                with pytest.raises(TimeoutError):
                    take()
    finally:
        (Path.home() / f"course-canary-{os.getpid()}.txt").unlink()
    assert outcome.problem is None
    assert outcome.values == ([],)
    assert not any(Path(folder, "course-written").exists() for folder in given["FOLDERS"])


def test_nothing_that_an_exercise_leaves_reaches_the_next(sandbox):
    leave = """
import os, time
def leave():
    try:
        os.makedirs("/tmp/deep/er"); os.symlink("/usr", "/tmp/link"); os.chmod("/tmp/deep", 0)
    except OSError:
        pass
    if (process := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1)
        os._exit(0)
    return process
"""
    look = """
import os
def look():
    others = [p for p in os.listdir("/proc") if p.isdigit()] if os.path.isdir("/proc") else []
    try: mine = [f for f in os.listdir("/tmp") if f in ("deep", "link")]
    except OSError: mine = []
    return len(others), mine
"""
    case = [Case([Call()])]
    before = sandbox.run("0.0", "look", look, case)[0].values
    assert sandbox.run("0.0", "leave", leave, case)[0].problem is None
    assert sandbox.run("0.0", "look", look, case)[0].values == before


def test_a_closed_session_leaves_no_process_and_no_group(backend):
    with staging_dir() as stage, Session(backend, stage, {}, LIMITS, slot=1) as session:
        fork = "import os\ndef f():\n    return os.fork() and 1\n"
        session.run("0.0", "f", fork, [Case([Call()])])
        started = session._line.started
        folders = started.group.folders if started.group else ()
    assert started.process.returncode is not None
    assert not any(folder.exists() for folder in folders)
    if started.user is not None:
        running = [
            p for p in Path("/proc").iterdir() if p.name.isdigit() and owner(p) == started.user
        ]
        assert not running


def owner(process):
    try:
        return process.stat().st_uid
    except OSError:
        return None


# --- callbacks --------------------------------------------------------------------------------

ASK = [Case([Call([Callback("pairs", {"length": 3, "rules": [(2, 0, "linear")]})])])] * 2
LISTEN = """
import gc, numpy as np
def f(function):
    shown = [dict(o.params) for o in gc.get_objects() if type(o).__name__ == "Callback"]
    return sorted(str(p) for p in shown), function(np.ones((3, 2)))
"""


def test_an_answer_cannot_see_what_a_served_function_is_made_of(sandbox):
    for outcome in sandbox.run("1.3", "f", LISTEN, ASK):
        assert outcome.problem is None
        shown, value = outcome.values[0]
        assert {text for text in shown} <= {"{'id': 0}", "{'id': 1}"}
        np.testing.assert_array_equal(value[2] - 3, [2, 0])
        assert len(outcome.callbacks["pairs"]) == 1


def test_calls_of_another_scripts_function_are_refused(sandbox):
    source = (
        SPEAK
        + """
def f(function):
    say(frame({"dict": {"id": 1, "args": [], "kwargs": {"dict": {}}}}))
    return function([[1.0]] * 3)
"""
    )
    outcomes = sandbox.run("1.3", "f", source, ASK)
    assert all(outcome.problem is not None for outcome in outcomes)


def test_a_function_that_is_never_called_is_counted_as_such(sandbox):
    outcome = sandbox.run("1.3", "f", "def f(function):\n    return 1\n", ASK)[0]
    assert outcome.callbacks == {"pairs": []}


# --- limits --------------------------------------------------------------------------------------

TABLE = """
import tracemalloc
import numpy as np
def f(n):
    tracemalloc.stop()
    tracemalloc.start = tracemalloc.get_traced_memory = lambda *a: (0, 0)
    return float(np.ones((n, n)).sum())
"""


def test_a_memory_limit_is_the_systems_not_only_the_meters(sandbox):
    small, large = (
        sandbox.run("7.3", "f", TABLE, [Case([Call([n])], memory_mb=5), Case([Call([n])])])
        for n in (100, 3000)  # 0.08 MB and 72 MB
    )
    assert [o.problem for o in small] == [None, None]
    assert large[0].problem is not None
    assert large[1].problem is None, "a limit of one script must not bind another"


def test_a_loop_in_every_script_costs_little_and_one_in_a_single_script_only_that(
    sandbox, monkeypatch
):
    monkeypatch.setattr(session_module, "_LATE_SECONDS", 2.0)
    cases = [Case([Call([i])], seconds=0.3) for i in range(30)]
    begin = time.monotonic()
    outcomes = sandbox.run("0.0", "f", "def f(n):\n    while True: pass\n", cases)
    assert {o.problem.kind for o in outcomes} == {"time"}
    assert time.monotonic() - begin < 20
    once = "def f(n):\n    while n == 3: pass\n    return n\n"
    outcomes = sandbox.run("0.0", "f", once, cases)
    assert [o.problem is None for o in outcomes] == [i != 3 for i in range(30)]


@pytest.mark.parametrize("number", ["5.1", "5.3", "5.4", "7.2", "7.3"])
def test_right_answers_fit_into_what_the_sandbox_allows(sandbox, backend, number):
    claims = bank().hidden[number].claims
    drawn = [[c for c in draw(claim, i, SEED) if c.room_mb] for i, claim in enumerate(claims)]
    assert sum(map(len, drawn)) == 1, "each of them has a script that is limited from outside"
    for answer in bank().accepted[number]:
        if answer.__name__ == "_lists" and not isinstance(backend, Bubblewrap):
            continue  # seconds of loops: once is enough
        source = text_of(answer, bank().exercises[number].answer)
        for claim, cases in zip(claims, drawn, strict=True):
            if cases:
                outcomes = sandbox.run(number, bank().exercises[number].answer, source, cases)
                assert verdict(claim, cases, outcomes) is None, answer


def test_a_time_limit_is_the_graders(sandbox, monkeypatch):
    monkeypatch.setattr(session_module, "EXERCISE_SECONDS", 1.0)
    begin = time.monotonic()
    outcome = sandbox.run(
        "0.0", "f", BOMBS["time"].source + "f = causal_mask\n", [Case([Call([1])])]
    )
    assert outcome[0].problem.kind == "time"
    assert time.monotonic() - begin < 20


def test_the_limits_hold_for_all_processes_together(backend):
    if Cgroup.make(Limits()) is None:
        pytest.skip("no control group can be made here: limits hold for each process only")
    source = """
import os, time
def f():
    read, write = os.pipe()
    os.set_blocking(read, False)
    for _ in range(8):
        if os.fork() == 0:
            kept = bytearray(b"x" * 150_000_000)
            os.write(write, b"x")
            time.sleep(60)
            os._exit(0)
    full = dead = 0
    while full + dead < 8:
        time.sleep(0.05)
        try: full += len(os.read(read, 8))
        except BlockingIOError: pass
        dead += os.waitpid(-1, os.WNOHANG) != (0, 0)
    return full
"""
    with staging_dir() as stage, Session(backend, stage, {}, LIMITS, slot=1) as session:
        outcome = session.run("0.0", "f", source, [Case([Call()])])[0]
    assert outcome.problem is not None or outcome.values[0] <= 4


def test_a_grader_that_is_killed_takes_its_sandbox_with_it(tmp_path):
    backend = Bubblewrap()
    if backend.missing():
        pytest.skip(f"bubblewrap: {backend.missing()}")
    mark = f"course_mark_{os.getpid()}"
    code = f"""
from course_lib.checks.script import Call, Case
from course_tools.sandbox.backends import Bubblewrap
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import staging_dir
source = '''
import ctypes, os, time
def f():
    ctypes.CDLL(None).prctl(15, b"{mark[:15]}", 0, 0, 0)
    for _ in range(3): os.fork()
    time.sleep(100)
'''
with staging_dir() as stage, Session(Bubblewrap(), stage, {{}}) as session:
    session.run("0.0", "f", source, [Case([Call()])])
"""
    grader = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not named(mark[:15]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert named(mark[:15]), "the sandbox never ran"
    finally:
        grader.kill()
        grader.wait()
    deadline = time.monotonic() + 10
    while named(mark[:15]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not named(mark[:15])


def named(mark):
    """Processes of that name, zombies left out."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            text = (process / "stat").read_text() if process.name.isdigit() else ""
        except OSError:
            continue
        if f"({mark})" in text and ") Z " not in text:
            found.append(process.name)
    return found
