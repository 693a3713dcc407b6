"""Scripts and plain values as trees that JSON can hold: the one form for files and for the sandbox.

`encode` writes the data of the visible checks with it, and a grader what goes to its sandbox. They
differ in where the numbers of an array go, and in nothing else.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from course_lib.checks.script import (
    Call,
    Callback,
    Case,
    Drawn,
    DType,
    Outcome,
    Problem,
    Tensor,
)

#: The classes that a tree may hold, by name; those of an outcome, of which there is one, on top.
OUTCOMES = {kind.__name__: kind for kind in (Outcome, Problem)}
CLASSES = OUTCOMES | {k.__name__: k for k in (Call, Callback, Case, Drawn, DType, Tensor)}
#: Kinds of numbers that an array may hold: booleans, integers, floats, complex numbers.
KINDS = "biufc"
#: Halves of surrogate pairs, and control characters but tab and newline, become U+FFFD.
_UNPRINTABLE = [*range(9), *range(11, 32), *range(127, 160), *range(0xD800, 0xE000)]
_PRINTABLE = dict.fromkeys(_UNPRINTABLE, "\N{REPLACEMENT CHARACTER}")
#: Most entries of all containers of one tree together, most nested levels, letters of a text.
MAX_ITEMS, MAX_DEPTH, MAX_TEXT = 200_000, 24, 100_000


class Writer(ABC):
    """Makes a tree of a value."""

    @abstractmethod
    def array(self, array: np.ndarray) -> dict[str, Any]:
        """The tree of an array whose kind is one of `KINDS`."""

    def number(self, x: float) -> float:
        """A float as it is to be written."""
        return float(x)

    def tree(self, value: Any, depth: int = 0) -> Any:
        """What JSON can hold.

        Args:
            value: made of `CLASSES`, arrays, numbers, texts, None, tuples, lists and dicts.
            depth: levels above it.

        Raises:
            TypeError: if it holds anything else.
            ValueError: if it is nested too deeply.
        """
        if depth > MAX_DEPTH:
            raise ValueError(f"expected at most {MAX_DEPTH} nested levels")
        match value:
            case np.ndarray() if value.dtype.kind in KINDS:
                return self.array(value)
            case np.generic() if value.dtype.kind in KINDS:
                return {"scalar": self.array(np.asarray(value))}
            case None | bool() | int() | str():
                return value
            case float():
                x = self.number(value)
                return x if math.isfinite(x) else {"float": str(x)}
            case list():
                return [self.tree(item, depth + 1) for item in value]
            case tuple():
                return {"tuple": [self.tree(item, depth + 1) for item in value]}
            case dict():
                return {"dict": {str(k): self.tree(v, depth + 1) for k, v in value.items()}}
        kind = type(value).__name__
        if CLASSES.get(kind) is not type(value):
            raise TypeError(f"expected arrays, numbers, texts and containers of them; got {kind}")
        tree = {"script": kind}
        for field in dataclasses.fields(value):
            item, default = getattr(value, field.name), field.default
            if field.default_factory is dict:
                default = {}
            if type(item) is not type(default) or item != default:
                tree[field.name] = self.tree(item, depth + 1)
        return tree


class Reader(ABC):
    """Makes a value of a tree, and counts as it goes.

    Args:
        trusted: make objects of `CLASSES` everywhere; else an outcome only, if it is the whole,
            and texts of at most `MAX_TEXT` letters, all of which can be printed.
    """

    def __init__(self, *, trusted: bool) -> None:
        self.trusted, self.items = trusted, 0

    @abstractmethod
    def array(self, tree: dict[str, Any]) -> Any:
        """An array from its tree; ValueError if it is none."""

    def value(self, tree: Any, depth: int = 0) -> Any:
        """What a writer wrote.

        Raises:
            ValueError, TypeError: if it is not a tree within the limits.
        """
        self.items += 1
        if self.items > MAX_ITEMS or depth > MAX_DEPTH:
            raise ValueError("too many items or levels")
        match tree:
            case None | bool() | int() | float():
                return tree
            case str() if self.trusted:
                return tree
            case str() if len(tree) <= MAX_TEXT:
                return tree.translate(_PRINTABLE)
            case list():
                return [self.value(item, depth + 1) for item in tree]
            case {"tuple": list(items)}:
                return tuple(self.value(item, depth + 1) for item in items)
            case {"dict": dict(pairs)}:
                return {self.value(k): self.value(item, depth + 1) for k, item in pairs.items()}
            case {"float": "nan" | "inf" | "-inf" as text}:
                return float(text)
            case {"scalar": dict(inner)}:
                return self.array(inner).reshape(())[()]
            case {"script": str(kind), **fields} if self.trusted or depth < 2:
                made = {str(name): self.value(item, depth + 1) for name, item in fields.items()}
                return (CLASSES if self.trusted else OUTCOMES)[kind](**made)
            case dict():
                return self.array(tree)
        raise ValueError("unexpected JSON")
