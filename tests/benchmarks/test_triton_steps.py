"""From the teaching kernel to the tuned one: each step computes the same and gives a reason."""

import numpy as np
import pytest

from tests.helpers.triton import CUDA, DEVICE, TOLERANCE, poison, reference, tensors  # noqa: F401

# isort: split
import torch

from benchmarks.triton_steps import WALK, call_of, walk_on
from course_lib.flash.triton_tuning import Config
from course_lib.masks import causal

CAPABILITY = torch.cuda.get_device_capability() if CUDA else None


STEPS = list(walk_on(CAPABILITY))


@pytest.mark.parametrize(("step", "config"), STEPS, ids=lambda x: getattr(x, "name", ""))
@pytest.mark.parametrize(("n_queries", "n_keys"), [(40, 40), (5, 37)])
def test_each_step_computes_the_same(step, config, n_queries, n_keys):
    rng = np.random.default_rng(13)
    q, k, v, _ = tensors(rng, 1, 2, 2, n_queries, n_keys, 16)
    got = call_of(step, config)(q, k, v)
    assert (got.double() - reference(q, k, v, causal())).abs().max() <= TOLERANCE[q.dtype]


def test_an_expectation_is_a_range_above_nothing():
    assert len({step.name for step in WALK}) == len(WALK)
    for step in WALK:
        low, high = step.expected
        assert 1 <= low < high and step.reason and step.how


def test_a_gpu_gets_the_steps_that_it_can_take():
    ampere, hopper = (dict(walk_on((n, 0))) for n in (8, 9))
    assert [step.name for step in hopper if step not in ampere] == ["TMA descriptors"]
    assert hopper[WALK[0]] == Config(16, 16) and hopper[WALK[-1]] is None
    assert ampere[WALK[-1]] is None and not any(c.tma for c in ampere.values() if c)
