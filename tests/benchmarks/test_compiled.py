"""The kernels compiled, without a device, for GPUs that are not here."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton, which is for Linux", allow_module_level=True)

COMPILE = """
import json, sys
from dataclasses import asdict
import torch
from benchmarks.compiled import compile_for
from course_lib.flash.triton_tuning import Config, candidates, decode_candidates
found = {}

def compile(name, which, capability, dtype, D, config):
    report = compile_for(which, capability, dtype, D, config)
    fits = report.fits_on_hopper(config.warps)
    found[name] = {**asdict(report), "fits": fits}

for capability, dtype in ((75, torch.float16), (80, torch.bfloat16), (90, torch.bfloat16)):
    pair = (capability // 10, capability % 10)
    short = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    forward = candidates("forward", pair, 64, dtype)[0]
    backward = candidates("backward", pair, 64, dtype)[0]
    turned = Config(backward.block_k, backward.block_q, backward.warps, backward.stages,
                    backward.tma)
    compile(f"forward {capability}", "forward", capability, short, 64, forward)
    if capability < 90:  # the others are slow to compile, and say little more
        continue
    compile("keys 90", "keys", 90, short, 64, backward)
    compile("queries 90", "queries", 90, short, 64, turned)
    compile("merge 90", "merge", 90, short, 64, Config(16, 16, 4))
    compile("delta 90", "delta", 90, short, 64, Config(64, 64, 4))
compile("decode 90", "decode", 90, "bf16", 64, Config(16, 128, 4, 3))
compile("decode 90 d128", "decode", 90, "bf16", 128, Config(16, 64, 4, 3))
for rows, capability, dtype in ((32, 90, "fp32"), (64, 75, "fp16")):
    config = decode_candidates(rows, 128, tensor_cores=False)[0]
    compile(f"decode {capability} {dtype}", "decode", capability, dtype, 128, config)
config = candidates("backward", (8, 0), 128, torch.float32)[0]
compile("keys 80 fp32", "keys", 80, "fp32", 128, config)
compile("steps 80", "steps", 80, "bf16", 64, Config(64, 64, 4, 2))
large = candidates("forward", (9, 0), 128, torch.bfloat16)[0]
compile("forward 90 d128", "forward", 90, "bf16", 128, large)
print(json.dumps(found))
"""
SHARED = {75: 64 * 1024, 80: 163 * 1024, 90: 227 * 1024}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the compiler reports, from a process that has no interpreter."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_the_kernels_compile_for_gpus_that_are_not_here(compiled):
    """Types, layouts and shared memory, which the interpreter does not check; no time is."""
    for name, report in compiled.items():
        kernel, capability = name.split()[0], int(name.split()[1])
        assert report["shared"] <= SHARED[capability], name
        # Without tensor cores, numbers that spill would be read again for every product.
        assert report["stack"] <= (0 if capability == 90 else 64), f"{name} spills"
        if capability == 90 and kernel in ("forward", "keys", "queries"):
            assert report["wgmma"] and report["tma"] and not report["mma"], name
        if capability == 80:
            assert report["mma"] or "fp32" in name, name


def test_full_tiles_pay_for_no_mask_and_the_products_are_those_of_the_formulas(compiled):
    """On Hopper; a matrix instruction does 64 x n x 16.

    The forward pass has one loop, with the mask in a branch out of it; the others have two.
    """
    products = {"forward": 2, "queries": 3, "keys": 4}
    for name in ("forward 90", "forward 90 d128", "queries 90", "keys 90"):
        assert not compiled[name]["serialized"], name
        loops, kernel = compiled[name]["loops"], name.split()[0]
        assert sorted(loop["selects"] > 0 for loop in loops) == (
            [False] if kernel == "forward" else [False, True]
        ), name
        for loop in loops:
            assert loop["wgmma"] >= 4 * products[kernel], name
            # The weights go from one product to the next without leaving the registers,
            assert loop["from_registers"] >= 4, name
            # a score costs one multiply-add and one power of two, its scale included,
            assert loop["fma"] >= loop["exp2"] - 8, name
            # and no group of warps waits for the other between the softmax and the product.
            assert loop["barriers_after_exp2"] == 0, name


def test_three_programs_of_decoding_fit_on_a_processor(compiled):
    for name in ("decode 90", "decode 90 d128"):
        assert compiled[name]["fits"] >= 3, name
        assert compiled[name]["mma"], name
