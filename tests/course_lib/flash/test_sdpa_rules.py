"""The dispatcher's rules: what they say is what torch does, where it can be tried."""

from dataclasses import replace

import pytest
import torch

from course_lib.flash import sdpa_kernel_used
from course_lib.flash.sdpa_rules import (
    CALLS,
    DEVICES,
    SdpaCall,
    SdpaDevice,
    arguments_of,
    sdpa_kernel_for,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", CALLS)
def test_the_rules_for_a_cpu_are_what_torch_does(name, dtype):
    call = CALLS[name] if "float" in name else replace(CALLS[name], dtype=dtype)
    tensors, options = arguments_of(call, "cpu")
    assert sdpa_kernel_used(*tensors, **options) == sdpa_kernel_for(call, DEVICES["CPU"])[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CALLS)
def test_the_rules_for_this_gpu_are_what_torch_does(name):
    version = tuple(int(n) for n in torch.__version__.split(".")[:2])
    device = SdpaDevice(
        torch.cuda.get_device_capability(), torch.backends.cudnn.version() or 0, version
    )
    tensors, options = arguments_of(CALLS[name], "cuda")
    assert sdpa_kernel_used(*tensors, **options) == sdpa_kernel_for(CALLS[name], device)[0]


#: Read by hand, line by line, from the sources of torch 2.13.
BY_HAND = {
    "is_causal=True": ("EFFICIENT", "FLASH", "CUDNN"),
    "no mask": ("EFFICIENT", "FLASH", "CUDNN"),
    "a matrix as mask": ("EFFICIENT", "EFFICIENT", "CUDNN"),
    "is_causal=True, 8 queries on 64 keys": ("EFFICIENT", "EFFICIENT", "CUDNN"),
    "causal_lower_right(8, 64)": ("EFFICIENT", "FLASH", "FLASH"),
    "one query, no mask": ("EFFICIENT", "FLASH", "CUDNN"),
    "4 query heads a key head": ("MATH", "FLASH", "CUDNN"),
    "4 query heads a key head, a matrix": ("MATH", "MATH", "CUDNN"),
    "dropout 0.1": ("EFFICIENT", "FLASH", "FLASH"),
    "dropout 1/16": ("EFFICIENT", "FLASH", "CUDNN"),
    "head width 60": ("MATH", "FLASH", "FLASH"),
    "head width 60, a matrix": ("MATH", "MATH", "MATH"),
    "values of another width": ("EFFICIENT", "EFFICIENT", "CUDNN"),
    "head width 256": ("EFFICIENT", "FLASH", "FLASH"),
    "float32": ("EFFICIENT", "EFFICIENT", "EFFICIENT"),
    "float64": ("MATH", "MATH", "MATH"),
    "values transposed in memory": ("MATH", "MATH", "MATH"),
    "no batch axis": ("MATH", "MATH", "MATH"),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_rules_for_gpus_are_those_of_the_sources(name):
    found = [
        sdpa_kernel_for(CALLS[name], DEVICES[device])[0] for device in ("T4", "A100", "H100, H200")
    ]
    assert tuple(kernel.split("_")[0] for kernel in found) == BY_HAND[name]


def test_each_kernel_that_is_passed_over_says_why():
    kernel, passed = sdpa_kernel_for(CALLS["4 query heads a key head"], DEVICES["T4"])
    assert kernel == "MATH" and passed == {
        "FLASH_ATTENTION": "wants compute capability 8.0",
        "EFFICIENT_ATTENTION": "has no groups of heads before torch 2.14",
    }
    newer = replace(DEVICES["T4"], torch=(2, 14))
    assert sdpa_kernel_for(CALLS["4 query heads a key head"], newer)[0] == "EFFICIENT_ATTENTION"


def test_an_older_cudnn_is_not_preferred():
    old = replace(DEVICES["H100, H200"], cudnn=91500)
    assert sdpa_kernel_for(SdpaCall(), old) == ("FLASH_ATTENTION", {})
    assert sdpa_kernel_for(SdpaCall(mask="matrix", group=4), old)[0] == "MATH"
