"""Attention without the matrix: tiled, with an online softmax (chapter 7 and appendix C).

`tiled` holds the NumPy and torch versions, which run anywhere; `triton_attention` calls the kernels
for a GPU (and, slowly, for Triton's interpreter), which stand in `triton_forward`,
`triton_backward` and `triton_decode`; `available` says what runs on this machine and why the rest
does not; `ring` spreads one sequence over several processes.

What needs Triton is imported when it is first used, so this package also works where there is
no Triton, as on macOS.
"""

from importlib import import_module
from typing import Any

from course_lib.flash.available import (
    KernelStatus,
    available_kernels,
    sdpa_kernel_used,
    triton_device,
)
from course_lib.flash.tiled import tiled_attention_numpy, tiled_attention_torch

#: Names that need Triton, and the module that has them.
_LAZY = {
    "flash_attention": "course_lib.flash.triton_attention",
    "flash_decode": "course_lib.flash.triton_attention",
}

__all__ = [
    "KernelStatus",
    "available_kernels",
    "flash_attention",
    "flash_decode",
    "sdpa_kernel_used",
    "tiled_attention_numpy",
    "tiled_attention_torch",
    "triton_device",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
