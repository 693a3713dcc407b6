"""`check` survives what answers do, by accident or on purpose: a clear line, no traceback."""

import builtins
import sys

import numpy as np
import pytest

from course_lib.checks import check


def right(n):
    return np.tril(np.ones((n, n), dtype=bool))


def deletes_builtins(n):
    for name in ("len", "isinstance", "print", "zip", "next", "type", "dict", "str"):
        delattr(builtins, name)
    return right(n)


def patches_numpy(n):
    mask = right(n)
    np.asarray = np.array = np.isclose = np.equal = lambda *a, **k: True
    return mask


def closes_stdout(n):
    sys.stdout.close()
    return right(n)


def loses_stdout(n):
    sys.stdout = None
    return right(n)


@pytest.mark.parametrize("answer", [deletes_builtins, patches_numpy, closes_stdout, loses_stdout])
def test_an_answer_that_breaks_the_session_is_still_judged(answer, capsys):
    before = vars(builtins).copy(), np.asarray
    check("2.2", answer)
    assert "All 3 claims hold." in capsys.readouterr().out
    assert (vars(builtins), np.asarray) == before


def test_prints_are_shown_but_do_not_bury_the_report(capsys):
    def chatty(n):
        for i in range(100):
            print("debug", i)
        return right(n)

    check("2.2", chatty)
    out = capsys.readouterr().out
    assert "debug 0\n" in out and "debug 99\n" not in out
    assert "more lines that your code printed)" in out and "All 3 claims hold." in out
    assert out.count("\n") < 40


class UnspeakableError(Exception):
    """Its message cannot be had."""

    def __str__(self):
        raise ValueError("no message")


class Liar(np.ndarray):
    """Says that it equals everything and has the right shape and dtype."""

    def __eq__(self, other):
        return np.ones((5, 5), dtype=bool)

    def __array__(self, *args, **kwargs):
        return right(5)

    shape = property(lambda self: (5, 5))
    dtype = property(lambda self: np.dtype(bool))


@pytest.mark.parametrize(
    ("error", "line"),
    [(UnspeakableError, "It stops with UnspeakableError"), (SystemExit, "stops with SystemExit")],
)
def test_an_odd_exception_is_one_line(error, line, capsys):
    def answer(n):
        raise error

    check("2.2", answer)
    out = capsys.readouterr().out
    assert line in out and "Traceback" not in out


def test_a_subclass_that_lies_is_read_for_what_it_holds(capsys):
    check("2.2", lambda n: np.zeros((n, n)).view(Liar))
    assert "Your mask has dtype float64" in capsys.readouterr().out
