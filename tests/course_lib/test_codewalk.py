"""The code walk records what really ran."""

import numpy as np
import pytest
import torch

from course_lib.codewalk import walk

pytestmark = pytest.mark.fast


def double_in_place(x):
    y = x + 1
    y *= 2
    if y.sum() > 100:
        y = None
    return y


@pytest.mark.parametrize("x", [np.array([1.0, 2.0]), torch.tensor([1.0, float("nan")])])
def test_each_line_shows_what_it_made_also_in_place(x):
    recording = walk(double_in_place, x)
    assert [step.line for step in recording.steps] == [2, 3, 4, 6]
    made = [step.made for step in recording.steps]
    np.testing.assert_array_equal(made[0]["y"], x + 1)  # not yet doubled
    np.testing.assert_array_equal(made[1]["y"], (x + 1) * 2)
    assert made[2] == {}
    np.testing.assert_array_equal(made[3]["returned"], recording.result)


def test_the_code_shown_is_the_code_that_ran():
    recording = walk(double_in_place, np.ones(1))
    assert recording.source[0] == "def double_in_place(x):"
    assert all(recording.source[s.line - 1] == s.code for s in recording.steps)
    assert " 3 | y *= 2" in str(recording)


def test_a_failing_function_fails_and_leaves_no_trace_function_behind():
    import sys

    before = sys.gettrace()
    with pytest.raises(TypeError):
        walk(double_in_place, None)
    assert sys.gettrace() is before


def test_only_plain_functions_can_be_walked():
    with pytest.raises(TypeError, match="function: expected a plain Python function"):
        walk(np.sum, [1])


def again(n):
    rest = again(n - 1) if n else 0
    return rest + 1


def test_only_the_first_call_of_a_recursive_function_is_recorded():
    recording = walk(again, 3)
    assert recording.result == 4
    assert [(step.line, step.made) for step in recording.steps] == [
        (2, {"rest": 3}),
        (3, {"returned": 4}),
    ]


def test_a_generator_cannot_be_walked():
    def count():
        yield 1

    with pytest.raises(TypeError, match="function: expected a plain Python function"):
        walk(count)
