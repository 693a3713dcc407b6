"""Triton's kernels in a test, with or without a GPU; to be imported before anything of triton.

Without a GPU they run in Triton's interpreter, at small sizes.
"""

import importlib.util
import math
import os

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton, which is for Linux", allow_module_level=True)

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

import benchmarks.triton_steps  # noqa: E402, F401
import course_lib.flash.triton_attention  # noqa: E402, F401
from course_lib.attention import attention  # noqa: E402

# The kernels are defined now; notebooks that this process starts shall not inherit it.
INTERPRET = os.environ.pop("TRITON_INTERPRET", None)
DEVICE = "cuda" if CUDA else "cpu"
#: The error of one rounding of the output, plus that of rounded weights and values.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Memory that nobody has written holds NaN: what a kernel leaves out shows."""
    if INTERPRET:
        monkeypatch.setenv("TRITON_INTERPRET", INTERPRET)
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, _poisoned(original))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty))


def _poisoned(original):
    def empty(*args, **kwargs):
        tensor = original(*args, **kwargs)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    return empty


def tensors(rng, batch, heads, kv_heads, n_queries, n_keys, D, dtype=torch.float32, size=1.0):
    """q, k, v and dO, random normal."""
    shapes = ((heads, n_queries), (kv_heads, n_keys), (kv_heads, n_keys), (heads, n_queries))
    return [
        torch.from_numpy(rng.normal(size=(batch, h, t, D)) * size).to(dtype).to(DEVICE)
        for h, t in shapes
    ]


def reference(q, k, v, mask, do=None, scale=None):
    """Output, and gradients if `do` is given, in float64."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    o, _ = attention(q, keys, values, mask, empty_rows="zeros", scale=scale)
    if do is None:
        return o.detach()
    return (o.detach(), *torch.autograd.grad(o, (q, k, v), do.double()))
