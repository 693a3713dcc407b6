"""What the compiler makes of the Flash kernels for GPUs that are not here (chapter 7).

    python benchmarks/compiled.py            # some minutes; writes results/compiled.json
    python benchmarks/compiled.py --capabilities 90 --dims 64 --out -

Triton compiles without a device, down to machine code. That finds errors which the interpreter
does not (types, layouts, shared memory), and it says what a configuration costs: registers, what
spilled to memory, shared memory, which matrix instructions it got, and what stands in its innermost
loops. It says nothing about time. A plain script that needs no GPU; not to be used in a process
where TRITON_INTERPRET=1.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.triton_steps import step_kernel, walk_on  # noqa: E402
from course_lib.flash.triton_backward import (  # noqa: E402
    delta_kernel,
    keys_kernel,
    queries_kernel,
)
from course_lib.flash.triton_decode import merge_kernel, split_kernel  # noqa: E402
from course_lib.flash.triton_forward import CAUSAL, forward_kernel  # noqa: E402
from course_lib.flash.triton_tuning import (  # noqa: E402
    BackwardConfig,
    Config,
    candidates,
    decode_candidates,
)

RESULTS = ROOT / "benchmarks" / "results" / "compiled.json"
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
#: What one multiprocessor has, by compute capability: bytes of shared memory and the most of one
#: block, warps (NVIDIA, CUDA C++ programming guide, "Technical Specifications per Compute
#: Capability"; all have 65,536 registers).
PROCESSORS = {75: (64, 64, 32), 80: (164, 163, 64), 90: (228, 227, 64)}


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

    def programs(self, capability: int, warps: int) -> int:
        """How many programs one multiprocessor holds at a time; 0 if none fits.

        It has 65,536 registers, given out to warps in eights a thread; each program takes 1 KB of
        shared memory more than it asks for from 8.0 on (NVIDIA, Ampere and Hopper tuning guides).
        """
        shared, most, all_warps = PROCESSORS[capability]
        if self.shared > most * 1024:
            return 0
        by_registers = 65_536 // (-(-self.registers // 8) * 8 * 32 * warps)
        reserved = 1024 if capability >= 80 else 0
        by_shared = shared * 1024 // max(1, self.shared + reserved)
        return min(by_registers, by_shared, all_warps // warps)


def compile_for(
    which: str,
    capability: int,
    dtype: str,
    D: int,
    config: Config,
    mode: int = CAUSAL,
    **switches: bool,
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
        switches: `DQ_ATOMIC` of "keys", `EXP2` and `SPLIT` of "steps"; False if not given.

    Raises:
        ValueError: for a kernel that does not exist.
        RuntimeError: in the interpreter.
    """
    if which not in _KERNELS:
        raise ValueError(f"which: expected one of {', '.join(_KERNELS)}; got {which!r}")
    kernel = _KERNELS[which]
    if not isinstance(kernel, triton.JITFunction):
        raise RuntimeError("compile_for: TRITON_INTERPRET is set, so there is nothing to compile")
    constants = _constants(which, D, config, mode) | switches
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
        return {"D": D, **sides, "EXP2": False, "SPLIT": False}
    constants = {
        "D": D,
        "BLOCK_Q": config.block_q,
        "BLOCK_K": config.block_k,
        "MODE": mode,
        "PRECISION": "ieee",
        "TMA": config.tma,
    }
    return constants | ({"DQ_ATOMIC": False} if which == "keys" else {})


def _type(name: str, dtype: str, constants: dict[str, Any], config: Config, D: int) -> str:
    """The type of one argument, as the compiler writes it."""
    if name in constants:
        return "constexpr"
    if name.endswith("_source") and constants["TMA"]:
        rows = config.block_q if name in ("q_source", "do_source") else config.block_k
        return f"tensordesc<{dtype}[1, 1, {rows}, {D}]>"
    if name in _FLOAT32 or (name == "dq_ptr" and constants.get("DQ_ATOMIC")):
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


# --- the record ----------------------------------------------------------------------------------


def wanted(capability: int, D: int) -> Iterator[tuple[str, str, str, Config, dict[str, bool]]]:
    """(what it is, kernel, dtype, tile, switches) of all that is recorded.

    The walk of `triton_steps`, then each candidate of the backward pass, then decoding. Of
    GPUs that Triton does not support, only what the walk begins with: no matrix units.
    """
    pair = (capability // 10, capability % 10)
    half, name = (torch.bfloat16, "bf16") if capability >= 80 else (torch.float16, "fp16")
    tried = candidates("forward", pair, D, half)
    for step, tile in walk_on(pair):
        if capability < 80 and step.kernel == "library":
            return
        config = tile or tried[0]  # where nothing can be timed, the first to be tried
        assert isinstance(config, Config)
        switches = {"EXP2": step.exp2, "SPLIT": step.split} if step.kernel == "steps" else {}
        kernel = "steps" if step.kernel == "steps" else "forward"
        yield step.name, kernel, "fp32" if step.float32 else name, config, switches
    for choice in candidates("backward", pair, D, half):
        assert isinstance(choice, BackwardConfig)
        atomic = choice.queries is None
        yield "dK and dV" + ", dQ" * atomic, "keys", name, choice.keys, {"DQ_ATOMIC": atomic}
        if choice.queries is not None:
            yield "dQ", "queries", name, choice.queries, {}
    yield "decoding, 16 rows", "decode", name, decode_candidates(16, D)[0], {}


def record(capabilities: list[int], dims: list[int]) -> dict[str, Any]:
    """Compile all; one line each is printed."""
    found: list[dict[str, Any]] = []
    for capability in capabilities:
        for D in dims:
            seen = set()
            for what, kernel, dtype, config, switches in wanted(capability, D):
                if (what, config) in seen:
                    continue
                seen.add((what, config))
                made = compile_for(kernel, capability, dtype, D, config, **switches)
                line = {
                    "what": what, "capability": capability, "D": D, "dtype": dtype,
                    "tile": str(config), **asdict(made),
                    "programs": made.programs(capability, config.warps),
                }  # fmt: skip
                del line["loops"]
                found.append(line)
                print(
                    f"sm_{capability} D {D:<4}{what:<33}{line['tile']:<34}"
                    f"{made.registers:>4} registers {made.stack:>4} B stack "
                    f"{made.wgmma:>3} wgmma {made.mma:>4} mma {line['programs']} a processor",
                    flush=True,
                )
    return {
        "benchmark": "compiled",
        "evidence": "compiled, not measured: no GPU was there, and nothing here is a time",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {
            "device": "none", "triton": triton.__version__, "torch": torch.__version__,
            "ptxas": _tool("ptxas", "--version").split("release ")[1].split(",")[0],
            "python": platform.python_version(),
        },
        "kernels": found,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Compile all, print a table, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--capabilities", type=int, nargs="+", default=list(PROCESSORS))
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--out", default=str(RESULTS), help="a JSON file, or - for none")
    options = parser.parse_args(arguments)
    result = record(options.capabilities, options.dims)
    if options.out != "-":
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
