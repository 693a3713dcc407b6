"""What the compiler makes of a kernel for a GPU that is not here (chapter 7).

Triton compiles without a device, down to machine code. That finds errors which the interpreter
does not (types, layouts, shared memory), and it says what a configuration costs: registers, what
spilled to memory, shared memory, which matrix instructions it got, and what stands in its innermost
loops. It says nothing about time.

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

from benchmarks.triton_steps import step_kernel
from course_lib.flash.triton_backward import delta_kernel, keys_kernel, queries_kernel
from course_lib.flash.triton_decode import merge_kernel, split_kernel
from course_lib.flash.triton_forward import CAUSAL, forward_kernel
from course_lib.flash.triton_tuning import Config

_KERNELS = {
    "forward": forward_kernel,
    "keys": keys_kernel,
    "queries": queries_kernel,
    "delta": delta_kernel,
    "decode": split_kernel,
    "merge": merge_kernel,
    "steps": step_kernel,
}
_FLOAT32 = {"lse_ptr", "delta_ptr", "part_ptr"}


@dataclass(frozen=True)
class Loop:
    """One innermost loop, as PTX instructions of one thread.

    Attributes:
        wgmma: matrix instructions of Hopper.
        from_registers: those whose left factor comes from registers, not from shared memory.
        exp2: fast powers of two.
        fma: fused multiply-adds.
        selects: choices between two floats, which is what masking a score takes.
        barriers: times that all warps wait for each other.
        barriers_after_exp2: those between the first power of two and the next matrix instruction.
    """

    wgmma: int
    from_registers: int
    exp2: int
    fma: int
    selects: int
    barriers: int
    barriers_after_exp2: int


@dataclass(frozen=True)
class CompiledKernel:
    """What one compiled kernel needs.

    Attributes:
        registers: a thread, at most 255.
        stack: bytes a thread; what did not fit in registers, plus little else.
        shared: bytes of shared memory a block.
        wgmma: matrix instructions of Hopper.
        mma: matrix instructions of Ampere and later.
        tma: bulk tensor copies.
        serialized: whether the assembler lets each matrix instruction of Hopper wait for the one
            before (its notes C7510 to C7515 say why); then they reach a fraction of their speed.
        loops: the innermost loops, in the order of the program.
    """

    registers: int
    stack: int
    shared: int
    wgmma: int
    mma: int
    tma: int
    serialized: bool
    loops: tuple[Loop, ...]

    def fits_on_hopper(self, warps: int) -> int:
        """Programs that one processor of an H100 or H200 holds at a time.

        It has 65,536 registers, given out to warps in eights a thread; 228 KB of shared memory, of
        which each program takes 1 KB more than it asks for; and 64 warps (NVIDIA, Hopper tuning
        guide).
        """
        by_registers = 65_536 // (-(-self.registers // 8) * 8 * 32 * warps)
        return min(by_registers, 228 * 1024 // (self.shared + 1024), 64 // warps)


def compile_for(
    which: str, capability: int, dtype: str, D: int, config: Config, mode: int = CAUSAL
) -> CompiledKernel:
    """Compile one kernel with one configuration for a compute capability such as 90.

    Args:
        which: "forward", "keys" (dK and dV), "queries" (dQ), "delta", "decode", "merge" (its
            second half) or "steps" (from the teaching kernel, all of them).
        capability: 75, 80 or 90.
        dtype: "fp16", "bf16" or "fp32".
        D: head dimension.
        config: the tiles; "decode" takes block_q for its rows, "merge" for its pieces.
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
    if which == "merge":
        return {"D": D, "PIECES": config.block_q}
    if which == "delta":
        return {"D": D, "BLOCK_Q": config.block_q}
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


def _report(compiled: Any) -> CompiledKernel:
    """Registers, stack and order from the machine code, the rest from what the compiler kept."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(binary))
        code = _tool("nvdisasm", "-c", str(binary))
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    ptx = compiled.asm["ptx"]
    return CompiledKernel(
        registers=int(registers),
        stack=int(stack),
        shared=compiled.metadata.shared,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=ptx.count("mma.sync"),
        tma=ptx.count("cp.async.bulk.tensor"),
        # In order, a product of many instructions begins with one of these.
        serialized=0 < code.count("HGMMA") <= code.count("WARPGROUP.ARRIVE"),
        loops=tuple(map(_loop, _innermost(ptx))),
    )


def _tool(name: str, *arguments: str) -> str:
    """What a tool that comes with triton prints."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run(
        [str(path), *arguments], capture_output=True, text=True, check=True
    ).stdout


def _innermost(ptx: str) -> list[list[str]]:
    """The lines of each innermost loop: from a label to a branch back to it."""
    lines = [line.strip() for line in ptx.splitlines()]
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        if label := re.match(r"(\$L\w+):", line):
            labels[label[1]] = i
        elif (back := re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line)) and back[1] in labels:
            spans.append((labels[back[1]], i))
    return [
        lines[a : b + 1]
        for a, b in spans
        if not any((a, b) != (c, d) and a <= c and d <= b for c, d in spans)
    ]


def _loop(lines: list[str]) -> Loop:
    """Count; lines are searched for words, since instructions carry predicates."""

    def count(word: str, within: list[str] = lines) -> int:
        return sum(word in line for line in within)

    first = next((i for i, line in enumerate(lines) if "ex2.approx" in line), len(lines))
    product = (i for i in range(first, len(lines)) if "wgmma.mma_async" in lines[i])
    between = lines[first : next(product, first)]
    return Loop(
        wgmma=count("wgmma.mma_async"),
        from_registers=sum(bool(re.search(r"wgmma\.mma_async.*\}, *\{", line)) for line in lines),
        exp2=count("ex2.approx"),
        fma=count("fma.rn.f32"),
        selects=count("selp.f32"),
        barriers=count("bar.sync"),
        barriers_after_exp2=count("bar.sync", between),
    )
