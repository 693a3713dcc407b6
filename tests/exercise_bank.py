"""The exercises, loaded once for all test modules, and lines for the end of the test report."""

import functools
from pathlib import Path

import torch

from course_lib.grading.bank import load_bank, masters

ROOT = Path(__file__).parents[1]
#: What `conftest.py` prints after the tests: scores that a reader wants to see.
SUMMARY: list[str] = []


@functools.cache
def bank():
    torch.set_num_threads(1)  # children are forked: no pool of threads may exist
    return load_bank(ROOT)


def numbers():
    return list(bank().exercises)


def chapters():
    return list(masters(ROOT))
