"""The kernels compiled, without a device, for GPUs that are not here."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton, which is for Linux", allow_module_level=True)

#: One kernel of each sort now; the record holds the rest.
COMPILE = """
import json
from dataclasses import asdict
import torch
from benchmarks.compiled import PROCESSORS, compile_for, wanted
from course_lib.flash.triton_tuning import Config, candidates, decode_candidates

found = {}
def compile(name, which, capability, dtype, D, config, **switches):
    made = compile_for(which, capability, dtype, D, config, **switches)
    found[name] = {**asdict(made), "programs": made.programs(capability, config.warps)}

kernels = {}
for what, kernel, dtype, config, switches in wanted(90, 128):
    if what == "tile tried out" or kernel in ("keys", "queries", "decode"):
        kernels.setdefault(kernel, (kernel, 90, dtype, 128, config))
for kernel, arguments in kernels.items():
    compile(f"{kernel} 90", *arguments)
compile("merge 90", "merge", 90, "bf16", 64, Config(16, 16))
compile("delta 90", "delta", 90, "bf16", 64, Config(64, 64))
compile("steps 80", "steps", 80, "bf16", 64, Config(64, 64), EXP2=True, SPLIT=True)
compile("decode 90 d64", "decode", 90, "bf16", 64, decode_candidates(16, 64)[0])
compile("decode 90 fp32", "decode", 90, "fp32", 128,
        decode_candidates(32, 128, tensor_cores=False)[0])
compile("keys 80 fp32", "keys", 80, "fp32", 128,
        candidates("backward", (8, 0), 128, torch.float32)[0].keys)
recorded = [[capability, D, what, dtype, str(config)]
            for capability in PROCESSORS for D in (64, 128)
            for what, _, dtype, config, _ in wanted(capability, D)]
print(json.dumps({"kernels": found, "recorded": recorded}))
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What the compiler reports, from a process that has no interpreter."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def compiled(output):
    return output["kernels"]


@pytest.fixture
def record():
    return json.loads((ROOT / "benchmarks/results/compiled.json").read_text("utf-8"))


def test_the_kernels_compile_for_gpus_that_are_not_here(compiled):
    """Types, layouts and shared memory, which the interpreter does not check; no time is."""
    for name, made in compiled.items():
        assert made["programs"], f"{name} does not fit"
        assert made["stack"] <= (64 if "fp32" in name else 0), f"{name} spills"
        if name in ("forward 90", "keys 90", "queries 90"):
            assert made["wgmma"] and made["tma"] and not made["mma"], name
        elif "fp32" not in name and name.split()[0] in ("steps", "decode"):
            assert made["mma"], name


def test_full_tiles_pay_for_no_mask_and_the_products_are_those_of_the_formulas(compiled):
    """On Hopper; a matrix instruction does 64 x n x 16.

    The forward pass has one loop, with the mask in a branch out of it; the others have two.
    """
    products = {"forward": 2, "queries": 3, "keys": 4}
    for name in ("forward 90", "queries 90", "keys 90"):
        assert not compiled[name]["serialized"], name
        loops, kernel = compiled[name]["loops"], name.split()[0]
        assert sorted(loop["selects"] > 0 for loop in loops) == (
            [False] if kernel == "forward" else [False, True]
        ), name
        for loop in loops:
            assert loop["wgmma"] >= 4 * products[kernel], name
            # The weights go from one product to the next without leaving the registers,
            assert loop["from_registers"] >= 2, name
            # a score costs one multiply-add and one power of two, its scale included,
            assert loop["fma"] >= loop["exp2"] - 8, name
            # and no group of warps waits for the other between the softmax and the product.
            assert loop["barriers_after_exp2"] == 0, name


def test_three_programs_of_decoding_fit_on_a_processor(compiled):
    """`PROGRAMS_A_PROCESSOR` of `triton_passes` says so."""
    assert compiled["decode 90"]["programs"] >= 3 and compiled["decode 90 d64"]["programs"] >= 3


def test_the_record_is_of_the_kernels_that_are_in_use(output, record):
    """After a change of candidates or steps, run benchmarks/compiled.py again."""
    names = ("capability", "D", "what", "dtype", "tile")
    lines = [[line[name] for name in names] for line in record["kernels"]]
    assert [line for line in output["recorded"] if line not in lines] == []
    assert [line for line in lines if line not in output["recorded"]] == []
    assert "not measured" in record["evidence"]


def test_what_the_record_says(record):
    """No number spills on Hopper, nor in what the library takes on Ampere; a T4 has no units."""
    for line in record["kernels"]:
        name = f"{line['what']} on sm_{line['capability']}, D = {line['D']}"
        units = line["wgmma"] + line["mma"]
        assert (units == 0) == (line["capability"] < 80 or line["dtype"] == "fp32"), name
        walk = line["what"] not in ("dQ", "tile tried out") and "dK" not in line["what"]
        if line["capability"] == 90 or (line["capability"] == 80 and not walk):
            assert line["stack"] == 0 and line["programs"] >= 1, f"{name} spills"
