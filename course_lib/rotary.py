"""Rotary positions: queries and keys are turned by an angle that grows with their position.

The dot product of a query at position m and a key at n then depends on m - n only.
Source: J. Su et al., "RoFormer", 2021, arXiv:2104.09864, with the pairing of Llama.
"""

import torch
from torch import Tensor


def frequencies(
    head_dim: int, base: float = 10_000.0, device: torch.device | None = None
) -> Tensor:
    """Radians a position for each pair of entries, float64, shape [D / 2].

    Args:
        head_dim: numbers a head, D; even.
        base: the first pair turns by 1, the last by nearly 1 / base.
        device: where to make them.
    """
    half = head_dim // 2
    return base ** (-torch.arange(half, dtype=torch.float64, device=device) / half)


def rotation(positions: Tensor, frequency: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles, for all heads.

    Args:
        positions: integers, shape [T] or [B, T].
        frequency: radians a position, shape [D / 2].
        dtype: of the result; the angles are float64.

    Returns:
        Two tensors of shape [1, T, D / 2] or [B, 1, T, D / 2].
    """
    angle = (positions.double()[..., None] * frequency).unsqueeze(-3)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of entries (i, i + D/2) of x by its angle; lengths do not change.

    Args:
        x: queries or keys, shape [B, H, T, D].
        cos: cosines of the angles, shape [..., T, D / 2].
        sin: sines, likewise.

    Returns:
        Shape and dtype of x.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
