"""Which kernel a model on a GPU should call: the course's, or PyTorch's (chapter 7).

Where `scaled_dot_product_attention` has a fused kernel that needs no matrix, it is taken: what is
published for cuDNN and FlashAttention is above what is published for Triton (J. Shah et al.,
"FlashAttention-3", 2024, arXiv:2407.08608, figure 5), and a call costs less. The course's kernels
win by what PyTorch has no kernel for: a rule other than causal, whose tiles they skip and whose
matrix they never make, and sequences of different lengths in one batch. benchmarks/on_gpu.sh times
both sides of each decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.flash.sdpa_rules import HALF, SdpaCall, SdpaDevice, sdpa_kernel_for
from course_lib.masks import Mask

KernelName = Literal["sdpa", "flash_attention", "flash_decode"]
#: Fewer queries do not pay for the lists of tiles of a rule, which are made on the CPU once for
#: each shape.
MANY_QUERIES = 512


@dataclass(frozen=True)
class ModelCall:
    """What a model knows before it attends; the queries are the last positions of the keys.

    Attributes:
        device: the GPU and its libraries.
        dtype: of queries, keys and values.
        head_dim: D.
        heads: query heads.
        kv_heads: key heads, a divisor of `heads`.
        n_queries: Tq.
        n_keys: Tk.
        needs_grad: whether gradients will be asked for.
        ragged: whether the sequences fill their caches to different lengths.
    """

    device: SdpaDevice
    dtype: torch.dtype
    head_dim: int
    heads: int
    kv_heads: int
    n_queries: int
    n_keys: int
    needs_grad: bool = False
    ragged: bool = False


def kernel_for(call: ModelCall, rule: Mask | None) -> KernelName:
    """The kernel to call; `attend_by` calls it.

    Args:
        call: the shapes and the device.
        rule: which keys a query may attend to; None for all.
    """
    group = call.heads // call.kv_heads
    plain = rule is None or rule.is_full or rule.is_causal
    ours = (
        call.dtype in HALF
        and call.head_dim in (16, 32, 64, 128)
        and call.device.capability is not None
        and call.device.capability >= (8, 0)
        and call.n_queries <= call.n_keys
    )
    if call.ragged:
        few = group * call.n_queries <= 128 and not call.needs_grad
        return "flash_decode" if ours and plain and few else "sdpa"
    sizes = (call.dtype, call.head_dim, None, call.n_queries, call.n_keys)
    if plain:
        everything = rule is None or rule.is_full or call.n_queries == 1
        theirs = SdpaCall(*sizes, mask="none" if everything else "lower right", group=group)
    else:
        theirs = SdpaCall(*sizes, mask="matrix", group=group)
    kernel, _ = sdpa_kernel_for(theirs, call.device)
    without_matrix = plain and kernel != "MATH"
    many = plain or call.n_queries >= MANY_QUERIES
    return "flash_attention" if ours and many and not without_matrix else "sdpa"


def attend_by(
    kernel: KernelName,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Mask | None,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Attention by the kernel that `kernel_for` named.

    Args:
        kernel: its name.
        q: queries [B, H, Tq, D], the last positions.
        k: keys [B, Hkv, Tk, D].
        v: values, likewise.
        rule: which keys a query may attend to; None for all.
        mask: the rule's matrix, needed for "sdpa" under a rule that is neither full nor causal.
        lengths: for "flash_decode", how many slots each sequence has filled, integer [B].

    Returns:
        [B, H, Tq, D].
    """
    if kernel == "sdpa":
        plain = rule is None or rule.is_full or (rule.is_causal and q.shape[2] == 1)
        if mask is None and not plain:
            # Here, because it imports triton, which must know first whether to interpret.
            from torch.nn.attention.bias import causal_lower_right

            mask = causal_lower_right(q.shape[2], k.shape[2])
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    from course_lib.flash.triton_attention import flash_attention, flash_decode

    if kernel == "flash_decode":
        return flash_decode(q, k, v, lengths=lengths)
    return flash_attention(q, k, v, rule)


def attend_on_gpu(
    rule: Mask | None, q_pos: Tensor, k_pos: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, None]]:
    """How the layers of a model attend in one pass, the matrix made at most once and if needed.

    Args:
        rule: which keys a query may attend to; None for all.
        q_pos: positions of the queries, the last of `k_pos`, [T].
        k_pos: positions of the keys, 0, 1, 2, ..., [S].

    Returns:
        attend(q [B, H, T, D], k [B, Hkv, S, D], v, unused) -> (output [B, H, T, D], None).
    """
    made: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
        grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        sizes = (q.shape[3], q.shape[1], k.shape[1], q.shape[2], k.shape[2])
        kernel = kernel_for(ModelCall(device_of(q), q.dtype, *sizes, grad), rule)
        if kernel == "sdpa" and rule is not None and not (rule.is_full or rule.is_causal):
            made[:] = made or [rule.tensor(q_pos, k_pos)]
        return attend_by(kernel, q, k, v, rule, mask=made[0] if made else None), None

    return attend


def device_of(tensor: Tensor) -> SdpaDevice:
    """The device of a tensor, as the rules want it."""
    major, minor = (int(n) for n in torch.__version__.split(".")[:2])
    if not tensor.is_cuda:
        return SdpaDevice(None, 0, (major, minor))
    capability = torch.cuda.get_device_capability(tensor.device)
    return SdpaDevice(capability, torch.backends.cudnn.version() or 0, (major, minor))
