"""Sizes that no `GPT` can be built with, answered before anything is built."""

from collections.abc import Sequence
from typing import Any

from course_lib.validate import check_choice


def check_config(config: Any, position_kinds: Sequence[str]) -> None:
    """Refuse a `GPTConfig` that cannot be built.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if it is below 1, if heads do not divide what they share, or positions are
            none of the kinds.
    """
    for name in ("vocab_size", "context", "layers", "heads", "width", "kv_heads"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}: expected an integer; got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1; got {value}")
    if config.width % config.heads:
        raise ValueError(f"heads: expected a divisor of width {config.width}; got {config.heads}")
    if config.heads % config.kv_heads:
        raise ValueError(
            f"kv_heads: expected a divisor of heads {config.heads}; got {config.kv_heads}"
        )
    check_choice("positions", config.positions, position_kinds)
    if config.positions == "rotary" and config.head_dim % 2:
        raise ValueError(
            f"positions: rotary ones expect an even width / heads; got {config.head_dim}"
        )
