"""Flash attention in Triton, ready to use: checks, choice of tiles, autograd (chapter 7).

The kernels themselves are in `triton_forward`, `triton_backward` and `triton_decode`. This module
imports triton; without a GPU, set TRITON_INTERPRET=1 before the first import of triton, and keep
the sizes small (the interpreter takes about a millisecond a tile).

What has been run where: the interpreter in the tests; compiled for sm_75, sm_80 and sm_90 without
a device in the tests (both with triton 3.7.1). By hand with 3.6.0: the interpreter under NumPy 2.1
and the compiler under NumPy 2.5 and torch 2.11. By hand with both: every candidate of the two
passes for heads of 64 and 128 compiled, and the way from a call to its launch walked with a
stand-in for CUDA's driver. By hand with 3.7.1: the bfloat16 kernels compiled for sm_100 and
sm_120. On a GPU by `benchmarks/flash_gpu.py`, if benchmarks/results/ has its file.
"""

import math
from typing import SupportsFloat

import torch

from course_lib.flash.triton_passes import Flash, decode
from course_lib.flash.triton_tuning import INTERPRETED, BackwardConfig, Config, check_tile
from course_lib.masks import Mask, causal
from course_lib.validate import check_count

#: Head dimensions that the kernels take.
HEAD_DIMS = (16, 32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None = causal(),  # noqa: B008  (a Mask never changes)
    *,
    scale: float | None = None,
    config: Config | None = None,
    backward_config: BackwardConfig | None = None,
) -> torch.Tensor:
    """Attention by the tuned kernels; equal to `course_lib.attention.attention`, with gradients.

    The T x T matrix is never made: memory grows with T. Half precision multiplies in half and
    adds in float32; float32 multiplies in float32 (no TF32). On Hopper and later the gradient of q
    may be summed in another order each time, where that is faster; not so after
    `torch.use_deterministic_algorithms(True)`. A row that may attend to nothing
    gives zeros, and zero gradients. A NaN in a key that is blocked stays out of the output; one in
    a blocked *value* does not, if a visited tile holds it (0 * NaN is NaN, as in `attention`).

    Args:
        q: queries, [B, H, Tq, D], float16, bfloat16 or float32; D one of 16, 32, 64, 128.
        k: keys, [B, Hkv, Tk, D], same dtype and device; Hkv divides H (GQA: query head h uses
            key head h // (H / Hkv)); Tk >= Tq, the queries are the last Tq positions.
        v: values, [B, Hkv, Tk, D].
        mask: a rule; None for standard attention. `causal()` and None compare positions in the
            kernel; any other rule goes through its tile map, which is made on the CPU once for
            each mask object and shape, so keep the object.
        scale: positive factor of the dot products; 1 / sqrt(D) if not given.
        config: tiles of the forward pass; chosen (on a GPU: tried out) if not given.
        backward_config: tiles of the backward pass, likewise.

    Returns:
        [B, H, Tq, D], in the dtype of q.

    Raises:
        TypeError: wrong types or dtypes.
        ValueError: shapes, devices or a scale that do not fit; a CPU tensor without the
            interpreter.
        RuntimeError: if no tile size fits this device.
    """
    scale = _check(q, k, v, mask, scale)
    for name, given, kind in (
        ("config", config, Config),
        ("backward_config", backward_config, BackwardConfig),
    ):
        if given is not None and not isinstance(given, kind):
            got = type(given).__name__
            raise TypeError(f"{name}: expected a {kind.__name__} or None; got {got}")
    if q.numel() == 0:
        return q + 0 * (k.sum() + v.sum())  # empty, and the gradients of keys and values are zero
    if INTERPRETED and q.dtype == torch.bfloat16:
        # The interpreter has no bfloat16 arithmetic (triton-lang/triton#4972, #11584).
        inputs = (x.float() for x in (q, k, v))
        return Flash.apply(*inputs, mask, scale, config, backward_config).to(q.dtype)
    return Flash.apply(q, k, v, mask, scale, config, backward_config)


def flash_decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    lengths: torch.Tensor | None = None,
    scale: float | None = None,
    splits: int | None = None,
    block_k: int | None = None,
) -> torch.Tensor:
    """Causal attention of a few new queries against a long cache, the keys split over the GPU.

    Forward only. The queries are the last Tq positions of their sequence.

    Args:
        q: [B, H, Tq, D], with H / Hkv * Tq at most 128.
        k: the cache, [B, Hkv, Tk, D].
        v: likewise.
        lengths: integer [B], how many slots of the cache are filled in each sequence (between Tq
            and Tk); all of them if not given. On a GPU their values are not looked at, which would
            make it wait: there one above Tk counts as Tk, and the first queries of a sequence with
            one below Tq see nothing.
        scale: positive factor of the dot products; 1 / sqrt(D) if not given.
        splits: pieces of the keys, at least 1; enough to fill the GPU if not given.
        block_k: keys a tile, a power of two from 16 to 128; the largest that is known to fit the
            device if not given.

    Returns:
        [B, H, Tq, D], in the dtype of q.

    Raises:
        TypeError: wrong types or dtypes.
        ValueError: as `flash_attention`; too many rows for one tile; `lengths` that does not fit;
            inputs that want a gradient.
        RuntimeError: if no tile size fits this device.
    """
    scale = _check(q, k, v, None, scale)
    n_rows = q.shape[1] // k.shape[1] * q.shape[2]
    if n_rows > 128:
        raise ValueError(
            "q: expected at most 128 rows that share keys (queries times heads a key head); "
            f"got {n_rows}; use flash_attention"
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError(
            "q: expected inputs that need no gradient, since flash_decode has no backward pass; "
            "call it under torch.no_grad(), or use flash_attention"
        )
    if lengths is not None:
        _check_lengths(lengths, q, k.shape[2])
    if splits is not None:
        check_count("splits", splits, 1)
    if block_k is not None:
        check_tile("block_k", block_k)
    if q.numel() == 0:
        return q.clone()
    dtype = q.dtype
    if INTERPRETED and dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    return decode(q, k, v, lengths, scale, splits, block_k).to(dtype)


def _check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask | None, scale: float | None
) -> float:
    """Refuse what the kernels cannot do; returns the scale."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name}: expected a torch tensor; got {type(x).__name__}")
        if x.dtype not in DTYPES:
            raise TypeError(f"{name}: expected float16, bfloat16 or float32; got {x.dtype}")
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q, {q.dtype}; got {x.dtype}")
        if x.device != q.device:
            raise ValueError(f"{name}: expected device {q.device}, where q is; got {x.device}")
        if x.ndim != 4:
            raise ValueError(f"{name}: expected shape [B, heads, T, D]; got {list(x.shape)}")
    _check_device(q.device)
    _check_shapes(q, k, v)
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(
            f"mask: expected a course_lib.masks.Mask or None; got {type(mask).__name__}"
        )
    if mask is not None and mask.batch not in (None, q.shape[0]):
        raise ValueError(
            f"mask: expected data of {q.shape[0]} sequences, the batch of q; got {mask.batch}"
        )
    if mask is not None and mask.least_keys > k.shape[2]:
        raise ValueError(
            f"mask: expected at least {mask.least_keys} keys, the prefix of {mask}; "
            f"got {k.shape[2]}"
        )
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    if isinstance(scale, bool) or not isinstance(scale, SupportsFloat):
        raise TypeError(f"scale: expected a number; got {type(scale).__name__}")
    scale = float(scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale: expected a finite number above 0; got {scale}")
    return scale


def _check_device(device: torch.device) -> None:
    if INTERPRETED:
        return
    if device.type != "cuda":
        raise ValueError(
            f"q: expected a CUDA tensor; got one on {device}. "
            "To run on a CPU, set TRITON_INTERPRET=1 before triton is imported"
        )
    found = torch.cuda.get_device_capability(device)
    if found < (8, 0):
        raise ValueError(
            "q: expected a GPU of compute capability 8.0 or more, which Triton supports; got "
            f"{found[0]}.{found[1]}. Use scaled_dot_product_attention there, or, to watch the "
            "kernels work, set TRITON_INTERPRET=1 before triton is imported"
        )


def _check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    batch, heads, n_queries, D = q.shape
    if D not in HEAD_DIMS:
        raise ValueError(f"q: expected a head dimension of 16, 32, 64 or 128; got {D}")
    if k.shape[0] != batch or k.shape[3] != D:
        raise ValueError(
            f"k: expected shape [{batch}, Hkv, Tk, {D}] to fit q {list(q.shape)}; "
            f"got {list(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(f"v: expected the shape of k, {list(k.shape)}; got {list(v.shape)}")
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise ValueError(f"k: expected a number of heads that divides {heads}; got {k.shape[1]}")
    if n_queries > k.shape[2]:
        raise ValueError(
            f"q: expected at most as many queries as keys, {k.shape[2]}; got {n_queries} "
            "(the queries are the last positions)"
        )


def _check_lengths(lengths: torch.Tensor, q: torch.Tensor, n_keys: int) -> None:
    if not isinstance(lengths, torch.Tensor) or lengths.dtype not in (torch.int32, torch.int64):
        kind = getattr(lengths, "dtype", type(lengths).__name__)
        raise TypeError(f"lengths: expected an int32 or int64 tensor; got {kind}")
    if lengths.shape != q.shape[:1] or lengths.device != q.device:
        raise ValueError(
            f"lengths: expected shape [{q.shape[0]}] on {q.device}; "
            f"got {list(lengths.shape)} on {lengths.device}"
        )
    looking_is_free = INTERPRETED or not q.is_cuda  # it would stop a GPU at every step
    if looking_is_free and len(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < q.shape[2] or high > n_keys:
            raise ValueError(
                f"lengths: expected from {q.shape[2]} (the queries) to {n_keys} (the cache); "
                f"got {low} to {high}"
            )
