"""From chapter 7's teaching kernel to the tuned one, a step at a time.

Each step says why it should help and what was expected of it, written down before any GPU was
there; `benchmarks/flash_gpu.py` measures them on one, and `benchmarks/compiled.py` records what the
compiler makes of them without one. Causal and forward only; this module imports triton.
"""

# Arguments of a kernel have no Python types; constexpr marks what is known when it is compiled.
# ruff: noqa: ANN001, ANN201, ANN202

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from course_lib.flash.triton_attention import flash_attention
from course_lib.flash.triton_tuning import Config


@triton.jit
def _visit(
    peak, total, acc, q, k_ptr, v_ptr, head, start, q_pos, n_keys, scale,
    D: tl.constexpr, BLOCK_K: tl.constexpr, EXP2: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys. With EXP2 the scale carries log2(e), and scaling joins the subtraction."""
    k_pos = start + tl.arange(0, BLOCK_K)
    at = head * n_keys * D + k_pos[:, None] * D + tl.arange(0, D)[None, :]
    if MASKED:
        inside = k_pos[:, None] < n_keys
        k = tl.load(k_ptr + at, mask=inside, other=0.0)
        v = tl.load(v_ptr + at, mask=inside, other=0.0)
    else:
        k = tl.load(k_ptr + at)
        v = tl.load(v_ptr + at)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")
    if not EXP2:
        s = s * scale
    if MASKED:
        s = tl.where(k_pos[None, :] <= q_pos[:, None], s, float("-inf"))
    if EXP2:
        new_peak = tl.maximum(peak, tl.max(s, axis=1) * scale)
        p = tl.math.exp2(s * scale - new_peak[:, None])
        shrink = tl.math.exp2(peak - new_peak)
    else:
        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        p = tl.exp(s - new_peak[:, None])
        shrink = tl.exp(peak - new_peak)
    total = total * shrink + tl.sum(p, axis=1)
    acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
    return new_peak, total, acc


@triton.jit
def step_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, n_queries, n_keys, scale,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    EXP2: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """BLOCK_Q queries of one head walk over the keys that they may see, in one loop or in two."""
    first = tl.program_id(0) * BLOCK_Q
    row = first + tl.arange(0, BLOCK_Q)
    offset = n_keys - n_queries  # the queries are the last positions
    head = tl.program_id(1).to(tl.int64)
    q_at = head * n_queries * D + row[:, None] * D + tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + q_at, mask=row[:, None] < n_queries, other=0.0)
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    q_pos = row + offset
    full_end = 0
    if SPLIT:
        full_end = (first + offset + 1) // BLOCK_K * BLOCK_K
        for start in range(0, full_end, BLOCK_K):
            peak, total, acc = _visit(
                peak, total, acc, q, k_ptr, v_ptr, head, start, q_pos, n_keys, scale,
                D, BLOCK_K, EXP2, False,
            )  # fmt: skip
    for start in range(full_end, tl.minimum(first + BLOCK_Q + offset, n_keys), BLOCK_K):
        peak, total, acc = _visit(
            peak, total, acc, q, k_ptr, v_ptr, head, start, q_pos, n_keys, scale,
            D, BLOCK_K, EXP2, True,
        )  # fmt: skip
    o = acc / total[:, None]
    tl.store(o_ptr + q_at, o.to(o_ptr.dtype.element_ty), mask=row[:, None] < n_queries)


def step_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    config: Config,
    exp2: bool = False,
    split: bool = False,
) -> torch.Tensor:
    """Causal attention by the teaching kernel with some of its steps. Shapes are not checked.

    Args:
        q: queries [B, H, Tq, D], contiguous, D a power of two of at least 16.
        k: keys [B, H, Tk, D], contiguous, Tk >= Tq; the queries are the last positions.
        v: values, likewise.
        config: tiles, warps and stages.
        exp2: base 2, with log2(e) folded into the scale.
        split: FULL tiles in a loop of their own.

    Returns:
        [B, H, Tq, D], in the dtype of q.
    """
    batch, heads, n_queries, D = q.shape
    o = torch.empty_like(q)
    scale = 1 / math.sqrt(D) * (math.log2(math.e) if exp2 else 1)
    step_kernel[(-(-n_queries // config.block_q), batch * heads)](
        q, k, v, o, n_queries, k.shape[2], scale,
        D=D, BLOCK_Q=config.block_q, BLOCK_K=config.block_k, EXP2=exp2, SPLIT=split,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return o


# --- the walk ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalkStep:
    """One change, and what was expected of it.

    Attributes:
        name: the change, in a few words.
        reason: why it should help.
        expected: by which factor, from and to, over the step before it (an H200, D = 128, 16,384
            tokens, 16 heads); of the first step, TFLOP/s.
        how: where the expectation comes from. A streaming multiprocessor of Hopper does, in each
            clock, 4,096 operations in its matrix units, 128 multiply-adds and 16 powers of two
            (NVIDIA, CUDA C++ programming guide, "Arithmetic Instructions"; H100 white paper).
        float32: inputs in float32; else in half precision.
        small: tiles of 16 x 16, as in the chapter.
        exp2: see `step_attention`.
        split: see `step_attention`.
        kernel: "steps" for the kernel of this file, "library" for `flash_attention`'s.
        tma: with TMA descriptors.
        tuned: with the tile that is the fastest, tried out.
    """

    name: str
    reason: str
    expected: tuple[float, float]
    how: str
    float32: bool = False
    small: bool = False
    exp2: bool = True
    split: bool = True
    kernel: str = "steps"
    tma: bool = False
    tuned: bool = False


WALK = (
    WalkStep(
        "teaching kernel",
        "the chapter's kernel as it stands: float32, tiles of 16 x 16",
        (1, 8),
        "float32 without rounding has no matrix units: 67 TFLOP/s are the data sheet's peak; 16 "
        "queries use a key for 8 operations a byte, so L2 sets a limit too",
        float32=True, small=True, exp2=False, split=False,
    ),
    WalkStep(
        "half precision",
        "matrix units multiply 16-bit numbers, and half as many bytes are moved",
        (3, 12),
        "the matrix units are 15 times as fast, but tiles of 16 x 16 do not feed them: 16 "
        "operations a byte from L2, and as many scores as before for every other unit",
        small=True, exp2=False, split=False,
    ),
    WalkStep(
        "tiles of 64 x 64",
        "each key fetched serves four times as many queries; Hopper's own matrix instructions "
        "take 64 rows",
        (3, 8),
        "four times fewer bytes from L2 (64 operations a byte), and the instructions of one loop "
        "serve 16 times as many scores",
        exp2=False, split=False,
    ),
    WalkStep(
        "exp2, scale folded in",
        "the hardware's instruction is 2**x: exp is one more multiplication, and scaling another",
        (1.02, 1.1),
        "two of about ten instructions a score; in a tile of 64 x 64 the products take 512 clocks, "
        "the powers of two 256, and each plain instruction a score 32",
        split=False,
    ),
    WalkStep(
        "full tiles apart",
        "a tile below the diagonal needs no comparison, no choice, and no test of bounds",
        (1.03, 1.15),
        "a comparison, a choice and the masks of two loads for every score, needed in 1 of 128 "
        "tiles of a row on average",
    ),
    WalkStep(
        "library's kernel, long rows first",
        "one loop with a branch keeps tiles flowing to the diagonal; the longest rows start first, "
        "so that no processor is left with one at the end; heads share L2 by turns",
        (1.0, 1.15),
        "4,096 programs run two on each of 132 processors; the last of a plain order "
        "are the longest, up to 256 tiles of some 2,000 that each place works through",
        kernel="library",
    ),
    WalkStep(
        "TMA descriptors",
        "one thread asks for a whole tile: no addresses in registers, no instructions for them",
        (1.05, 1.3),
        "in FlashAttention-3's ablation asynchrony as a whole gives 1.16 (570 to 661 TFLOP/s); "
        "registers fall from 223 to 142 a thread when compiled with triton 3.7.1",
        kernel="library", tma=True,
    ),
    WalkStep(
        "tile tried out",
        "128 x 128 with 8 warps: half the bytes from shared memory and L2 a score, and one group "
        "of warps multiplies while the other does its softmax",
        (1.1, 1.4),
        "128 operations a byte from L2, and the ratio of published Triton numbers to those of "
        "plain FlashAttention-2 (378 to 335 TFLOP/s at 16,384 tokens on an H100)",
        kernel="library", tma=True, tuned=True,
    ),
)  # fmt: skip


def walk_on(capability: tuple[int, int] | None) -> Iterator[tuple[WalkStep, Config | None]]:
    """The steps that a device can take, each with its tile; None where tiles are tried out.

    Args:
        capability: of the device; None for Triton's interpreter.
    """
    for step in WALK:
        small = step.small or capability is None
        hopper = capability is None or capability[0] >= 9
        if step.tuned:
            yield step, None
        elif small:
            yield step, Config(16, 16, tma=step.tma)
        elif hopper or not step.tma:
            stages = 3 if hopper and step.kernel == "library" else 2
            yield step, Config(64, 64, stages=stages, tma=step.tma)


def call_of(
    step: WalkStep, config: Config | None
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Causal attention(q, k, v) as this step computes it."""
    if config is None or step.kernel == "library":
        return lambda q, k, v: flash_attention(q, k, v, config=config)
    return lambda q, k, v: step_attention(q, k, v, config=config, exp2=step.exp2, split=step.split)
