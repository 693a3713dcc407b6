"""What the compiler makes of a kernel for a GPU that is not here (chapter 7).

Triton compiles without a device, down to machine code. That finds errors which the interpreter
does not (types, layouts, shared memory), and it says what a configuration costs: registers, what
spilled to memory, shared memory, and which matrix instructions it got. It says nothing about time.

Not to be used in a process where TRITON_INTERPRET=1. This module imports triton.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from course_lib.flash.triton_backward import keys_kernel, queries_kernel
from course_lib.flash.triton_decode import split_kernel
from course_lib.flash.triton_forward import CAUSAL, forward_kernel
from course_lib.flash.triton_kernels import Config
from course_lib.flash.triton_steps import step_kernel

_KERNELS = {
    "forward": forward_kernel,
    "keys": keys_kernel,
    "queries": queries_kernel,
    "decode": split_kernel,
    "steps": step_kernel,
}
_FLOAT32 = {"lse_ptr", "delta_ptr", "part_ptr"}


@dataclass(frozen=True)
class Report:
    """What one compiled kernel needs.

    Attributes:
        registers: a thread, at most 255.
        stack: bytes a thread; what did not fit in registers, plus little else.
        shared: bytes of shared memory a block.
        wgmma: matrix instructions of Hopper.
        mma: matrix instructions of Ampere and later.
        tma: bulk tensor copies.
    """

    registers: int
    stack: int
    shared: int
    wgmma: int
    mma: int
    tma: int


def compile_for(
    which: str, capability: int, dtype: str, D: int, config: Config, mode: int = CAUSAL
) -> Report:
    """Compile one kernel with one configuration for a compute capability such as 90.

    Args:
        which: "forward", "keys" (dK and dV), "queries" (dQ), "decode" or "steps" (all of them).
        capability: 75, 80 or 90.
        dtype: "fp16", "bf16" or "fp32".
        D: head dimension.
        config: the tiles; "decode" takes block_q for its rows.
        mode: FULL, CAUSAL or TILES of `triton_forward`.

    Raises:
        ValueError: for a kernel that does not exist.
        RuntimeError: in the interpreter.
    """
    if which not in _KERNELS:
        raise ValueError(f"which: expected one of {', '.join(_KERNELS)}; got {which!r}")
    kernel = _KERNELS[which]
    if not isinstance(kernel, triton.JITFunction):
        raise RuntimeError("compile_for: TRITON_INTERPRET is set, so there is nothing to compile")
    constants = _constants(which, D, config, mode)
    signature = {name: _type(name, dtype, constants, config, D) for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or ("_stride_" in name and name != "list_stride_b")
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )
    return _report(compiled)


def _constants(which: str, D: int, config: Config, mode: int) -> dict[str, Any]:
    if which == "decode":
        return {
            "D": D,
            "ROWS": config.block_q,
            "BLOCK_K": config.block_k,
            "PRECISION": "ieee",
            "HAS_LENGTHS": False,
        }
    if which == "steps":
        sides = {"BLOCK_Q": config.block_q, "BLOCK_K": config.block_k}
        return {"D": D, **sides, "EXP2": True, "SPLIT": True}
    constants = {
        "D": D,
        "BLOCK_Q": config.block_q,
        "BLOCK_K": config.block_k,
        "MODE": mode,
        "PRECISION": "ieee",
        "TMA": config.tma,
    }
    return constants | ({"DQ_ATOMIC": config.dq_atomic} if which == "keys" else {})


def _type(name: str, dtype: str, constants: dict[str, Any], config: Config, D: int) -> str:
    """The type of one argument, as the compiler writes it."""
    if name in constants:
        return "constexpr"
    if name.endswith("_source") and constants["TMA"]:
        rows = config.block_q if name in ("q_source", "do_source") else config.block_k
        return f"tensordesc<{dtype}[1, 1, {rows}, {D}]>"
    if name in _FLOAT32 or (name == "dq_ptr" and config.dq_atomic):
        return "*fp32"
    if name in ("scale", "scale2"):
        return "fp32"
    if name == "patterns":
        return "*i8"
    if name.endswith(("_starts", "_list")) or name == "lengths_ptr":
        return "*i32"
    return f"*{dtype}" if name.endswith(("_ptr", "_source")) else "i32"


def _report(compiled: Any) -> Report:
    """Registers and stack from the machine code, the rest from what the compiler kept."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [str(cuobjdump), "-res-usage", str(binary)], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    ptx = compiled.asm["ptx"]
    return Report(
        registers=int(registers),
        stack=int(stack),
        shared=compiled.metadata.shared,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=ptx.count("mma.sync"),
        tma=ptx.count("cp.async.bulk.tensor"),
    )
