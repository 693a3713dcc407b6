"""From the teaching kernel to the tuned one: each step computes the same."""

import numpy as np
import pytest

from tests.helpers.triton import TOLERANCE, poison, reference, tensors  # noqa: F401

# isort: split
from benchmarks.triton_steps import step_attention
from course_lib.flash.triton_tuning import Config
from course_lib.masks import causal


@pytest.mark.parametrize(("exp2", "split"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(40, 40), (5, 37)])
def test_each_step_computes_the_same(exp2, split, n_queries, n_keys):
    rng = np.random.default_rng(13)
    q, k, v, _ = tensors(rng, 1, 2, 2, n_queries, n_keys, 16)
    got = step_attention(q, k, v, exp2=exp2, split=split, config=Config(16, 16))
    assert (got.double() - reference(q, k, v, causal())).abs().max() <= TOLERANCE[q.dtype]
