"""The exercises, loaded once for all test modules, and lines for the end of the test report."""

import functools

import torch

from course_tools.exercise_bank.load import exercise_sources, load_bank
from tests.helpers.paths import ROOT

#: What `conftest.py` prints after the tests: scores that a reader wants to see.
SUMMARY: list[str] = []


@functools.cache
def bank():
    torch.set_num_threads(1)  # children are forked: no pool of threads may exist
    return load_bank(ROOT)


def numbers():
    return list(bank().exercises)


def chapters():
    return list(exercise_sources(ROOT))
