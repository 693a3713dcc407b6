"""Which kernel `scaled_dot_product_attention` takes, by device and call: PyTorch's rules as data.

The dispatcher tries kernels in an order and takes the first that has nothing against the call. The
rules here are those of torch 2.11 to 2.13 (and the change of 2.14), for dense tensors, read from
aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and sdp_utils_cpp.cpp, the order from
ATen/Context.h, `causal_lower_right` from torch/nn/attention/bias.py. `sdpa_kernel_used` of
`available` looks at what ran: tests compare the two on a CPU, benchmarks/on_gpu.sh on a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from course_lib.masks import causal

#: What says which keys are visible: nothing, `is_causal=True`, a matrix as `attn_mask`, or
#: `causal_lower_right(Tq, Tk)` as `attn_mask`.
MaskKind = Literal["none", "is_causal", "matrix", "lower right"]
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class SdpaDevice:
    """What the dispatcher asks of a device and of its libraries.

    Attributes:
        capability: compute capability, or None for a CPU.
        cudnn: version as `torch.backends.cudnn.version()` gives it; 0 for none.
        torch: version, (major, minor).
    """

    capability: tuple[int, int] | None
    cudnn: int = 91501
    torch: tuple[int, int] = (2, 13)


#: Devices by name, with the libraries of torch 2.13's wheels for CUDA 13.
DEVICES = {
    "CPU": SdpaDevice(None, 0),
    "T4": SdpaDevice((7, 5)),
    "A100": SdpaDevice((8, 0)),
    "H100, H200": SdpaDevice((9, 0)),
}


@dataclass(frozen=True)
class SdpaCall:
    """What the dispatcher asks of a call, [B, H, T, D].

    Attributes:
        dtype: of queries, keys and values.
        head_dim: D of queries and keys.
        value_dim: of values; `head_dim` if None.
        n_queries: Tq.
        n_keys: Tk.
        mask: see `MaskKind`.
        dropout: `dropout_p`.
        group: query heads a key head; above 1 with `enable_gqa=True`.
        axes: of the tensors; 4 but for calls without a batch.
        dense_rows: whether the last axis is contiguous.
    """

    dtype: torch.dtype = torch.bfloat16
    head_dim: int = 64
    value_dim: int | None = None
    n_queries: int = 64
    n_keys: int = 64
    mask: MaskKind = "is_causal"
    dropout: float = 0.0
    group: int = 1
    axes: int = 4
    dense_rows: bool = True

    @property
    def widths(self) -> set[int]:
        """Head dimensions of queries and keys, and of values."""
        return {self.head_dim, self.head_dim if self.value_dim is None else self.value_dim}


#: Calls that tell the kernels apart, by name: what each changes of `is_causal=True` in float16
#: (since a T4 has no bfloat16).
_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "is_causal=True": {},
    "no mask": {"mask": "none"},
    "a matrix as mask": {"mask": "matrix"},
    "is_causal=True, 8 queries on 64 keys": {"n_queries": 8},
    "causal_lower_right(8, 64)": {"n_queries": 8, "mask": "lower right"},
    "one query, no mask": {"n_queries": 1, "mask": "none"},
    "4 query heads a key head": {"group": 4},
    "4 query heads a key head, a matrix": {"group": 4, "mask": "matrix"},
    "dropout 0.1": {"dropout": 0.1},
    "dropout 1/16": {"dropout": 1 / 16},
    "head width 60": {"head_dim": 60},
    "head width 60, a matrix": {"head_dim": 60, "mask": "matrix"},
    "values of another width": {"value_dim": 32},
    "head width 256": {"head_dim": 256},
    "float32": {"dtype": torch.float32},
    "float64": {"dtype": torch.float64},
    "values transposed in memory": {"dense_rows": False},
    "no batch axis": {"axes": 2},
}
CALLS = {name: replace(SdpaCall(torch.float16), **change) for name, change in _CHANGES.items()}

Rule = tuple[str, Callable[[SdpaCall, SdpaDevice], bool]]
_FOUR_AXES: Rule = ("wants four axes", lambda c, _: c.axes == 4)
_DENSE: Rule = ("wants the last axis contiguous", lambda c, _: c.dense_rows)
_FROM_8: Rule = ("wants compute capability 8.0", lambda _, d: (d.capability or (0, 0)) >= (8, 0))
_HALF: Rule = ("wants float16 or bfloat16", lambda c, _: c.dtype in HALF)
_ONE_WIDTH: Rule = ("wants values as wide as keys", lambda c, _: len(c.widths) == 1)

#: What each kernel asks for; the first that fails is the reason.
RULES: Mapping[str, tuple[Rule, ...]] = {
    "FLASH_ATTENTION (CPU)": (
        ("has no dropout", lambda c, _: c.dropout == 0),
        _FOUR_AXES,
        _ONE_WIDTH,
        _DENSE,
    ),
    "CUDNN_ATTENTION": (
        _FOUR_AXES,
        _HALF,
        _FROM_8,
        ("wants dropout in sixteenths", lambda c, _: (16 * c.dropout).is_integer()),
        _DENSE,
        (
            "wants heads of at most 128, or 192 with values of 128",
            lambda c, _: max(c.widths) <= 128 or c.widths == {192, 128},
        ),
        ("wants widths that 8 divides", lambda c, _: all(n % 8 == 0 for n in c.widths)),
        ("wants more than one key", lambda c, _: c.n_keys > 1),
    ),
    "FLASH_ATTENTION": (
        _FOUR_AXES,
        ("takes no matrix as mask", lambda c, _: c.mask != "matrix"),
        _ONE_WIDTH,
        ("wants heads of at most 256", lambda c, _: c.head_dim <= 256),  # others are padded to 8
        _FROM_8,
        (
            "wants as many queries as keys with is_causal",
            lambda c, _: c.mask != "is_causal" or c.n_queries == c.n_keys,
        ),
        _HALF,
        _DENSE,
    ),
    "EFFICIENT_ATTENTION": (
        _FOUR_AXES,
        ("wants widths that 8 divides (4 in float32)", lambda c, d: not _odd_widths(c, d)),
        _DENSE,
        (
            "has no groups of heads before torch 2.14",
            lambda c, d: c.group == 1 or d.torch >= (2, 14),
        ),
        (
            "wants float16, float32 or, from 8.0, bfloat16",
            lambda c, d: c.dtype in (torch.float16, torch.float32)
            or (c.dtype == torch.bfloat16 and (d.capability or (0, 0)) >= (8, 0)),
        ),
    ),
    "MATH": (),
}  # fmt: skip


def _odd_widths(call: SdpaCall, device: SdpaDevice) -> bool:
    """Whether rows are no whole number of fetches (`minimum_gemm_alignment` in the source)."""
    capability = device.capability or (0, 0)
    half = call.dtype in HALF and capability >= (7, 0)
    step = 8 if half else 4 if capability >= (8, 0) else 1
    return any(n % step for n in call.widths)


def order(device: SdpaDevice) -> tuple[str, ...]:
    """The kernels that are tried, in this order."""
    if device.capability is None:
        return ("FLASH_ATTENTION (CPU)", "MATH")
    fused = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION")
    if device.capability[0] in (9, 10) and device.cudnn > 91500:
        return ("CUDNN_ATTENTION", *fused, "MATH")
    return (*fused, "MATH", "CUDNN_ATTENTION")  # so cuDNN's is only taken where it is demanded


def sdpa_kernel_for(call: SdpaCall, device: SdpaDevice) -> tuple[str, dict[str, str]]:
    """The kernel that the dispatcher takes, and why not each of those that it passed over.

    "MATH" is the five steps, with a T x T matrix of scores in memory.
    """
    tried = order(device)
    if call.mask == "lower right":  # a tensor subclass, which asks for itself
        call = replace(call, mask="is_causal" if call.n_queries == call.n_keys else "lower right")
        if call.mask == "lower right" and device.capability is None:
            call = replace(call, mask="matrix")
        elif call.mask == "lower right":
            tried = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    passed: dict[str, str] = {}
    for name in tried:
        reason = next((why for why, fits in RULES[name] if not fits(call, device)), None)
        if reason is None:
            return name, passed
        passed[name] = reason
    raise AssertionError("MATH takes every call")


def arguments_of(
    call: SdpaCall, device: torch.device | str
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """Tensors and options with which `scaled_dot_product_attention` is called so."""
    heads, value_dim = 4, call.head_dim if call.value_dim is None else call.value_dim
    shapes = (
        (heads, call.n_queries, call.head_dim),
        (heads // call.group, call.n_keys, call.head_dim),
        (heads // call.group, call.n_keys, value_dim),
    )
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, *shape, generator=generator).to(device=device, dtype=call.dtype)
        for shape in shapes
    )
    if not call.dense_rows:
        v = v.mT.contiguous().mT
    if call.axes == 2:
        q, k, v = q[0, 0], k[0, 0], v[0, 0]
    options: dict[str, Any] = {"dropout_p": call.dropout, "enable_gqa": call.group > 1}
    if call.mask == "is_causal":
        options["is_causal"] = True
    elif call.mask == "matrix":
        last = torch.arange(call.n_keys - call.n_queries, call.n_keys)  # queries end where keys do
        options["attn_mask"] = causal().tensor(last, call.n_keys).to(device)
    elif call.mask == "lower right":
        # Here, because it imports triton, which must know first whether to interpret.
        from torch.nn.attention.bias import causal_lower_right

        options["attn_mask"] = causal_lower_right(call.n_queries, call.n_keys)
    return (q, k, v), options
