"""As on Colab, a page may call what a notebook has registered."""

from collections.abc import Callable
from typing import Any

callbacks: dict[str, Callable[..., Any]] = {}


def register_callback(name: str, callback: Callable[..., Any]) -> None:
    """Keep it; here is no page that would call it."""
    callbacks[name] = callback
