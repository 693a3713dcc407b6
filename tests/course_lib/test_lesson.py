"""The small helpers of the notebooks."""

import numpy as np
import pytest
import torch

from course_lib.lesson import expected_error, listed, progress, table

pytestmark = pytest.mark.fast


def test_a_table_is_aligned_and_labelled():
    text = table([[1.0, -np.inf], [0.25, -0.00001]], rows=["a", "bb"], columns=["x", "y"], digits=2)
    assert text == "\n".join(["       x     y", "a   1.00  -inf", "bb  0.25  0.00"])


@pytest.mark.parametrize(
    "values", [np.array([True, False]), torch.tensor([1, 0]), torch.tensor([True, False])]
)
def test_whole_numbers_stay_whole(values):
    assert table(values) == "1  0"


def test_half_precision_tensors_can_be_printed():
    assert table(torch.tensor([0.5], dtype=torch.bfloat16), digits=1) == "0.5"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: table(np.zeros((1, 1, 1))), r"values: expected shape \[R, C\]"),
        (lambda: table(np.zeros((2, 2)), rows=["a"]), "rows: expected 2 labels; got 1"),
        (lambda: table(np.zeros((2, 2)), columns=["a"]), "columns: expected 2 labels; got 1"),
    ],
)
def test_bad_tables_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_expected_error_is_one_line(capsys):
    with expected_error(ValueError):
        raise ValueError("first line\nsecond line")
    assert capsys.readouterr().out == "ValueError: first line\n"


def test_an_expected_error_that_does_not_come_is_an_error():
    with pytest.raises(AssertionError, match="expected to fail"), expected_error():
        pass


def test_an_unexpected_error_is_not_swallowed():
    with pytest.raises(TypeError), expected_error(ValueError):
        raise TypeError


@pytest.mark.parametrize(("quiet", "silent"), [("1", True), ("0", False)])
def test_progress_is_silent_where_it_must_be(monkeypatch, capfd, quiet, silent):
    monkeypatch.setenv("COURSE_QUIET", quiet)
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert (capfd.readouterr().err == "") == silent


@pytest.mark.parametrize(
    ("names", "sentence", "plain"),
    [([], "nothing", "nothing"), (["a"], "a", "a"), (("a", "b"), "a and b", "a, b"),
     (list("abc"), "a, b and c", "a, b, c")],
)  # fmt: skip
def test_names_are_listed_in_words(names, sentence, plain):
    assert listed(names) == sentence and listed(names, ", ") == plain
