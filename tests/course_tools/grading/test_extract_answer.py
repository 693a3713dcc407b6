"""From cells to an answer: what it depends on comes along, what it does not stays behind."""

import contextlib

import numpy as np
import pytest

from course_tools.grading.extract_answer import read_program
from tests.helpers.exercise_bank import bank
from tests.helpers.made_class import MAGICS, NOISE, SPLIT, accepted, solutions


def run(cells, name):
    """What the extracted source defines, run on its own."""
    source = read_program(cells).answer(name)
    assert source is not None
    space = {"__name__": "__main__"}
    exec(compile(source, "<answer>", "exec"), space)
    return space[name]


TRIL = np.tri(4, dtype=bool)


@pytest.mark.parametrize(
    "cells",
    [
        SPLIT,
        SPLIT[::-1],
        [*MAGICS, "import numpy as np"],
        [NOISE],
        ["causal_mask = lambda n: helper(n)", "def helper(n): return m.tri(n, dtype=bool)",
         "import numpy as m"],
        ["from numpy import *\ndef causal_mask(n): return tri(n, dtype=bool)"],
        ["try:\n    import cupy as xp\nexcept ImportError:\n    import numpy as xp",
         "def causal_mask(n): return xp.tri(n, dtype=bool)"],
        ["import numpy as np; K = 0", "def causal_mask(n): return np.tri(n, k=K, dtype=bool)"],
        ["import numpy as np\nTABLE = {}\nfor i in range(9):\n    TABLE[i] = np.tri(i, dtype=bool)",
         "def causal_mask(n): return TABLE[n]", "TABLE.update({0: np.ones((0, 0), bool)})"],
        ["import functools, numpy as np\n@functools.cache\ndef causal_mask(n):\n"
         "    return np.tri(n, dtype=bool)"],
        ["import numpy as np\nclass Maker:\n    pass", "def make(self, n): return np.tri(n) > 0",
         "Maker.make = make", "def causal_mask(n): return Maker().make(n)"],
        ["import numpy as np\nif True:\n    def causal_mask(n): return np.tri(n, dtype=bool)"],
        ["import numpy as np\r\ndef causal_mask(n):\r\n    return np.tri(n, dtype=bool)\r\n"],
        ["    import numpy as np\n    def causal_mask(n):\n        return np.tri(n, dtype=bool)"],
        ["import numpy as np\ndef causal_mask(n):\n    '''\x0c a form feed'''\n"
         "    return np.tri(n, dtype=bool)"],
        ["import numpy as np\nasync def other(): pass\nawait other()\n"
         "def causal_mask(n): return np.tri(n, dtype=bool)"],
    ],
)  # fmt: skip
def test_an_answer_runs_on_its_own_wherever_its_parts_stand(cells):
    assert (run(cells, "causal_mask")(4) == TRIL).all()


@pytest.mark.parametrize(
    "stray",
    [
        "1 / 0",
        "while True:\n    pass",
        "n = 1 / 0",  # the answer's own argument has this name
        "while True:\n    rows = 1",  # and this is one of its variables
        "mask = causal_mask(4)\nassert False",
        "import os\nos._exit(1)",
        "print(causal_mask(10**9))",
        "raise SystemExit",
        "def broken(:\n    pass",
        "input('your name')",
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_stray_cells_do_not_matter(stray, place):
    cells = [
        "import numpy as np",
        "def causal_mask(n):\n    rows = np.arange(n)\n"
        "    return np.array([[c <= r for c in rows] for r in rows])",
    ]
    cells.insert(place, stray)
    assert (run(cells, "causal_mask")(4) == TRIL).all()


def test_every_solution_and_accepted_answer_is_found_by_its_name():
    for chapter in (2, 5):
        for answers in (solutions(chapter), accepted(chapter, 1)):
            program = read_program(list(answers.values()))
            names = {bank().exercises[number].answer for number in answers}
            assert names <= program.names() and not program.unreadable
            assert all(program.answer(name) for name in names)


def test_the_last_version_counts_and_an_untouched_stub_never_does():
    stub = "def f():\n    raise NotImplementedError('2.2: your code here')"
    assert run(["def f(): return 1", "def f(): return 2", stub], "f")() == 2
    assert "NotImplementedError" in read_program([stub]).answer("f")
    assert run(["M = 3", "M = None  # 2.1: your answer here"], "M") == 3
    assert run(["def f(): return 1", "g = f\ndef f(): return g() + 1"], "f")() == 2


def test_a_changed_value_keeps_its_changes_and_a_new_one_forgets_the_old():
    assert run(["M = [0]", "M[0] = 5", "M += [1]", "M.append(2)", "print(M)"], "M") == [5, 1, 2]
    assert run(["M = 1 / 0", "M += 1", "M = 7"], "M") == 7


def test_a_missing_answer_is_none_and_an_unreadable_one_says_why():
    program = read_program(["def f(x:\n    return", "g = 1"])
    assert program.answer("f") is None and program.answer("h") is None
    assert program.mentions("f").startswith("SyntaxError in line 1")
    assert program.mentions("g") is None


@pytest.mark.parametrize(
    "cells",
    [
        ["x = " + "-" * 50_000 + "1"],
        ["x = " + "1+" * 50_000 + "1"],
        ["x = " + "(" * 5_000 + ")" * 5_000],
        ["x = " + "f'{" * 200],
        ["x = 1\0"],
        ["x = '\ud800'"],
        ["a = 1;" * 60_000],
        ["a = 1\n" * 60_000],
        ["%magic\n" * 20_000 + "x ="],
        ["%magic\n" * 20_000 + "x = 1"],
        ["x = !ls\n" * 30, *["%time f()\n" * 30] * 20],
        ["if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 300))],
        [f"def f{i}(): return f{(i + 1) % 2000}()\nx{i} = f{i}()" for i in range(2000)],
        [f"x{i} = x{i + 1}" for i in range(4000)],
        ["x = 1\n" + "x += x\n" * 4_000],
        [" ".join(["lambda:"] * 3000)],
    ],
)  # fmt: skip
def test_hostile_cells_come_to_an_end_and_raise_nothing_unexpected(cells):
    program = read_program([*cells, "def good(): return 1"])
    for name in ("x", "x0", "f0", "a"):
        with contextlib.suppress(ValueError, RecursionError):  # what `Grader` expects
            program.answer(name)
    assert program.answer("good") is not None
