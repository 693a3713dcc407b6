"""Which attention kernels run on this device, and why the others do not (chapter 7).

`F.scaled_dot_product_attention` is a front door with several kernels behind it.
`available_kernels` tries each with a tiny input, together with Triton and FlexAttention;
`sdpa_kernel_used` says which one a given call really took, from the operations that torch
dispatched.
"""

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

#: From the name of a dispatched operation to the backend behind it.
_OPERATIONS = {
    "_scaled_dot_product_flash_attention_for_cpu": "FLASH_ATTENTION (CPU)",
    "_scaled_dot_product_flash_attention": "FLASH_ATTENTION",
    "_scaled_dot_product_efficient_attention": "EFFICIENT_ATTENTION",
    "_efficient_attention_forward": "EFFICIENT_ATTENTION",  # causal_lower_right calls it
    "_scaled_dot_product_cudnn_attention": "CUDNN_ATTENTION",
}
#: How torch's warnings name a kernel that it did not take, in small letters.
_HEADERS = {
    "FLASH_ATTENTION": "flash attention kernel not used",
    "EFFICIENT_ATTENTION": "memory efficient kernel not used",
    "CUDNN_ATTENTION": "cudnn attention kernel not used",
}
_SDPA = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")


@dataclass(frozen=True)
class KernelStatus:
    """One way to compute attention, and whether it runs here.

    Attributes:
        name: for SDPA the name of its `SDPBackend`, else "Triton" or "FlexAttention".
        runs: whether it ran just now.
        why: how it runs, or why it does not; one line.
    """

    name: str
    runs: bool
    why: str

    def __str__(self) -> str:
        return f"{self.name:<20} {'runs' if self.runs else 'no':<5} {self.why}"


def available_kernels(device: str | torch.device | None = None) -> list[KernelStatus]:
    """Try every kernel on a tiny causal input (1 x 2 x 32 x 32).

    Args:
        device: "cuda" where there is one, else "cpu", if not given.

    Returns:
        The four SDPA backends, Triton and FlexAttention. float16 on CUDA, float32 on a CPU.

    Raises:
        RuntimeError: if torch does not know the device.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    x = torch.linspace(-1, 1, 1 * 2 * 32 * 32, device=device).view(1, 2, 32, 32).to(dtype)
    found = [_try_sdpa(name, x) for name in _SDPA]
    return [*found, _triton(device), _flex(x)]


def triton_device() -> tuple[torch.device, str]:
    """Where Triton's kernels run here, and why; to be asked before triton is imported.

    Triton compiles for NVIDIA GPUs of compute capability 8.0 and later. Elsewhere, on a T4 too, its
    interpreter runs the same kernels on the CPU, right and slowly; this switches it on
    (TRITON_INTERPRET=1, which triton reads when it is imported).

    Returns:
        The device for tensors, and one sentence.

    Raises:
        RuntimeError: if the interpreter is needed and triton was imported without it.
    """
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        name = torch.cuda.get_device_name()
        if (major, minor) >= (8, 0):
            return torch.device("cuda"), f"Triton compiles for this GPU, {name}."
        why = f"Triton supports GPUs from compute capability 8.0 on, and {name} has {major}.{minor}"
    else:
        why = "There is no GPU here"
    if "triton" in sys.modules and not _interpreting():
        raise RuntimeError(
            f"{why}, so Triton has to interpret, and it was imported before it knew; restart the "
            "kernel and run from the top"
        )
    os.environ["TRITON_INTERPRET"] = "1"
    return torch.device("cpu"), f"{why}: Triton's interpreter runs the kernels on the CPU."


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def sdpa_kernel_used(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> str:
    """The kernel that `F.scaled_dot_product_attention(q, k, v, **options)` takes.

    It runs the call once and looks at the operations that torch dispatched. MATH has no
    operation of its own; it is what remains.

    Args:
        q: queries, as for SDPA.
        k: keys.
        v: values.
        options: as for SDPA: attn_mask, is_causal, dropout_p, scale, enable_gqa.

    Returns:
        The name of a backend, with "(CPU)" for the CPU's own flash kernel.
    """
    with _Operations() as seen:
        F.scaled_dot_product_attention(q, k, v, **options)
    return next((_OPERATIONS[name] for name in seen.names if name in _OPERATIONS), "MATH")


class _Operations(TorchDispatchMode):
    """Collects the names of dispatched operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def _try_sdpa(name: str, x: Tensor) -> KernelStatus:
    kind = getattr(SDPBackend, name)

    def call() -> None:
        with sdpa_kernel([kind]):
            F.scaled_dot_product_attention(x, x, x, is_causal=True)

    reason = _failure(call, _HEADERS.get(name))
    if reason is None:
        words = {
            "MATH": "separate steps that hold the T x T matrix",
            "FLASH_ATTENTION": "fused, in tiles",
            "EFFICIENT_ATTENTION": "fused, in tiles; the oldest GPUs have it too",
            "CUDNN_ATTENTION": "NVIDIA's own fused kernel",
        }
        return KernelStatus(name, True, words[name])
    if x.device.type != "cuda":
        return KernelStatus(name, False, f"a CUDA kernel; this device is {x.device.type}")
    return KernelStatus(name, False, reason)


def _triton(device: torch.device) -> KernelStatus:
    if importlib.util.find_spec("triton") is None:
        return KernelStatus("Triton", False, "not installed (wheels are for Linux)")
    if _interpreting():
        return KernelStatus(
            "Triton", True, "in its interpreter (TRITON_INTERPRET=1): right, but slow"
        )
    if device.type != "cuda":
        return KernelStatus(
            "Triton", False, "installed; needs a GPU, or TRITON_INTERPRET=1 for tests"
        )
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return KernelStatus(
            "Triton", False, f"officially from compute capability 8.0; this is {major}.{minor}"
        )
    return KernelStatus("Triton", True, f"compiled for compute capability {major}.{minor}")


def _flex(x: Tensor) -> KernelStatus:
    def call() -> None:
        from torch.nn.attention.flex_attention import flex_attention

        flex_attention(x, x, x)

    reason = _failure(call)
    if reason is not None:
        return KernelStatus("FlexAttention", False, reason)
    return KernelStatus(
        "FlexAttention", True, "uncompiled here: holds the matrix; torch.compile fuses"
    )


def _failure(call: Callable[[], None], header: str | None = None) -> str | None:
    """None if the call works; else why not, in one line.

    For each kernel that it passes over, torch warns with a header and then with the reason; what
    follows our header is ours. Without such a warning it is the error's first line.
    """
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:  # a driver or a compiler may fail in ways of its own
            lines = [str(w.message).split(" (Triggered")[0] for w in caught]
            after = [i + 1 for i, line in enumerate(lines) if header and header in line.lower()]
            if after and after[0] < len(lines):
                return lines[after[0]].splitlines()[0]
            return (str(error).splitlines() or [type(error).__name__])[0]
    return None
