"""Which kernel a model calls, on devices that are not here."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.triton import poison, tensors  # noqa: F401

# isort: split
from course_lib.attention import attention
from course_lib.flash.dispatch import (
    ModelCall,
    attend_by,
    attend_on_gpu,
    device_of,
    kernel_for,
)
from course_lib.flash.sdpa_rules import DEVICES
from course_lib.masks import Mask, causal, full, prefix_lm, sliding_window

HALF = torch.bfloat16


def on(device, n_queries=4096, n_keys=4096, **changes):
    call = ModelCall(DEVICES[device], HALF, 128, 32, 8, n_queries, n_keys)
    return replace(call, **changes)


@pytest.mark.parametrize("device", ["A100", "H100, H200"])
def test_what_pytorch_fuses_without_a_matrix_is_left_to_it(device):
    for rule in (causal(), full(), None):
        assert kernel_for(on(device), rule) == "sdpa"
        assert kernel_for(on(device, n_queries=1), rule) == "sdpa"
        assert kernel_for(on(device, n_queries=8), rule) == "sdpa"  # causal_lower_right


@pytest.mark.parametrize("device", ["A100", "H100, H200"])
def test_the_course_s_kernels_take_what_has_no_kernel_there(device):
    for rule in (sliding_window(512) & causal(), prefix_lm(100)):
        assert kernel_for(on(device), rule) == "flash_attention"
        assert kernel_for(on(device, needs_grad=True), rule) == "flash_attention"
        assert kernel_for(on(device, n_queries=1), rule) == "sdpa"  # a row is no matrix
    assert kernel_for(on(device, n_queries=1, ragged=True), causal()) == "flash_decode"
    assert kernel_for(on(device, n_queries=1, ragged=True, needs_grad=True), causal()) == "sdpa"
    assert kernel_for(on(device, n_queries=64, ragged=True), causal()) == "sdpa"  # 256 rows


def test_a_device_or_a_type_that_the_kernels_do_not_take():
    window = sliding_window(512)
    for call in (
        on("T4", dtype=torch.float16),
        on("CPU"),
        on("A100", dtype=torch.float32),
        on("A100", head_dim=80),
        on("A100", n_queries=4096, n_keys=100),
    ):
        assert kernel_for(call, window) == kernel_for(call, causal()) == "sdpa"
        assert kernel_for(replace(call, n_queries=1, ragged=True), causal()) in (
            "sdpa",
            "flash_decode",
        )
    assert kernel_for(on("T4", n_queries=1, ragged=True), causal()) == "sdpa"


@pytest.mark.parametrize("kernel", ["sdpa", "flash_attention", "flash_decode"])
def test_all_of_them_attend_alike(kernel):
    rng = np.random.default_rng(0)
    q, k, v, _ = tensors(rng, 2, 4, 2, 3, 20, 16)
    keys, values = (x.repeat_interleave(2, 1) for x in (k, v))
    for rule in (causal(), None, sliding_window(7)):
        if kernel == "flash_decode" and rule is not None and not rule.is_causal:
            continue
        seen = causal() if kernel == "flash_decode" else rule
        right, _ = attention(q.double(), keys.double(), values.double(), seen)
        mask = None
        if rule is not None and not rule.is_causal:
            mask = rule.tensor(torch.arange(17, 20), 20).to(q.device)
        got = attend_by(kernel, q, k, v, rule, mask=mask)
        assert (got.double() - right).abs().max() < 1e-5


def test_the_layers_of_a_model_share_one_matrix(monkeypatch):
    """Made at most once, and for no rule that a kernel knows."""
    rng = np.random.default_rng(1)
    q, k, v, _ = tensors(rng, 1, 4, 2, 20, 20, 16)
    keys, values = (x.repeat_interleave(2, 1) for x in (k, v))
    positions = torch.arange(20, device=q.device)
    made, original = [], Mask.tensor
    monkeypatch.setattr(Mask, "tensor", lambda *a, **o: made.append(a) or original(*a, **o))
    for rule, matrices in ((causal(), 0), (None, 0), (sliding_window(7), 1)):
        made.clear()
        attend = attend_on_gpu(rule, positions, positions)
        outputs = [attend(q, k, v, None)[0] for _ in range(3)]
        assert len(made) == matrices
        right, _ = attention(q.double(), keys.double(), values.double(), rule)
        assert all((o.double() - right).abs().max() < 1e-5 for o in outputs)


def test_the_device_of_a_tensor():
    assert device_of(torch.zeros(1)).capability is None
    assert device_of(torch.zeros(1)).torch >= (2, 11)
