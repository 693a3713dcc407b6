"""How the grader and the sandbox talk: frames of JSON and raw numbers, with limits (no pickle).

A frame is a fixed head (magic, lengths), a JSON text, and the bytes of its arrays one after the
other. Reading one can allocate no more than `MAX_FRAME` and gives only what `script` calls plain;
whatever else comes is a `WireError`. This module runs on both sides and knows no answer.
"""

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from course_lib.checks.script import Call, Case, Drawn, DType, Outcome, Problem, Served, Tensor

#: Most bytes of one frame, its arrays included, and of its JSON alone.
MAX_FRAME, MAX_JSON = 32 * 10**6, 8 * 10**6
#: Most entries of all containers of one frame together, and most nested levels.
MAX_ITEMS, MAX_DEPTH = 200_000, 24
#: Most axes of an array, most arrays of a frame, most letters of a text.
MAX_AXES, MAX_ARRAYS, MAX_TEXT = 12, 20_000, 100_000
#: Kinds of numbers that may travel: booleans, integers, floats, complex numbers.
KINDS = "biufc"

_HEAD = struct.Struct("<4sII")  # magic, bytes of JSON, bytes of arrays
_MAGIC = b"CAC1"
_DESCRIPTIONS = {kind.__name__: kind for kind in (Call, Case, Drawn, DType, Served, Tensor)}


class WireError(ValueError):
    """What came is not a frame within the limits."""


def pack(value: Any) -> bytes:
    """A plain value, a case or an outcome as one frame.

    Args:
        value: made of `PLAIN` types, tuples, lists, dicts, and the classes of `script`.

    Raises:
        WireError: if it holds anything else or is beyond a limit.
    """
    arrays: list[bytes] = []
    text = json.dumps(_flat(value, arrays, 0)).encode()
    body = b"".join(arrays)
    if len(text) > MAX_JSON or len(text) + len(body) > MAX_FRAME:
        raise WireError(f"expected at most {MAX_FRAME} bytes; got {len(text) + len(body)}")
    return _HEAD.pack(_MAGIC, len(text), len(body)) + text + body


def unpack(read: Callable[[int], bytes], *, trusted: bool = False) -> Any:
    """The next frame.

    Args:
        read: gives exactly so many bytes, or raises.
        trusted: also take the classes of `script`, which only the grader sends.

    Raises:
        WireError: if what comes is not a frame within the limits.
    """
    magic, text_size, body_size = _HEAD.unpack(read(_HEAD.size))
    if magic != _MAGIC or text_size > MAX_JSON or text_size + body_size > MAX_FRAME:
        raise WireError("expected a frame within the limits")
    text, body = read(text_size), read(body_size)
    # Parsed JSON can take a hundred times the room of its text: count its parts first.
    if sum(map(text.count, (b",", b"[", b"{"))) > 4 * MAX_ITEMS:
        raise WireError("too many items")
    try:
        tree = json.loads(text)
        return _Reader(body, trusted=trusted).value(tree, 0)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise WireError(f"malformed frame: {type(error).__name__}") from None


def _flat(value: Any, arrays: list[bytes], depth: int) -> Any:
    """JSON for a value; the bytes of its arrays are appended to `arrays`."""
    if depth > MAX_DEPTH:
        raise WireError(f"expected at most {MAX_DEPTH} nested levels")
    match value:
        case None | bool() | str():
            return value
        case np.generic() if value.dtype.kind in KINDS:
            return {"scalar": _flat(np.asarray(value), arrays, depth + 1)}
        case int():
            return {"int": str(value)} if abs(value) >= 2**53 else value
        case float():
            return {"float": float(value).hex()}
        case np.ndarray() if value.dtype.kind in KINDS and value.ndim <= MAX_AXES:
            native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
            arrays.append(native.tobytes())
            return {"array": value.dtype.newbyteorder("<").str, "shape": list(value.shape)}
        case list():
            return {"list": [_flat(item, arrays, depth + 1) for item in value]}
        case tuple():
            return {"tuple": [_flat(item, arrays, depth + 1) for item in value]}
        case dict():
            return {"dict": {str(k): _flat(v, arrays, depth + 1) for k, v in value.items()}}
    kind = type(value).__name__
    if _DESCRIPTIONS.get(kind) is type(value):
        names = type(value).__dataclass_fields__
        fields = {name: _flat(getattr(value, name), arrays, depth + 1) for name in names}
        return {"script": kind, "fields": fields}
    raise WireError(f"expected arrays, numbers, texts and containers of them; got {kind}")


class _Reader:
    """Builds a value from its JSON and the bytes of its arrays, counting as it goes."""

    def __init__(self, body: bytes, *, trusted: bool) -> None:
        self.body, self.trusted = body, trusted
        self.at = self.items = self.arrays = 0

    def value(self, tree: Any, depth: int) -> Any:
        self.items += 1
        if self.items > MAX_ITEMS or depth > MAX_DEPTH:
            raise WireError("too many items or levels")
        if tree is None or isinstance(tree, (bool, int)):
            return tree
        if isinstance(tree, str):
            if len(tree) > MAX_TEXT:
                raise WireError("text too long")
            return tree
        if not isinstance(tree, dict):
            raise WireError("unexpected JSON")
        return self.container(tree, depth + 1)

    def container(self, tree: dict[str, Any], depth: int) -> Any:
        match tree:
            case {"int": str(text)} if len(text) < 400:
                return int(text)
            case {"float": str(text)}:
                return float.fromhex(text)
            case {"array": str(dtype), "shape": list(shape)}:
                return self.array(dtype, shape)
            case {"scalar": dict(inner)}:
                array = self.value(inner, depth)
                if not isinstance(array, np.ndarray) or array.shape != ():
                    raise WireError("expected a scalar")
                return array[()]
            case {"list": list(items)}:
                return [self.value(item, depth) for item in items]
            case {"tuple": list(items)}:
                return tuple(self.value(item, depth) for item in items)
            case {"dict": dict(pairs)}:
                return {self.value(key, depth): self.value(v, depth) for key, v in pairs.items()}
            case {"script": str(kind), "fields": dict(fields)} if self.trusted:
                made = {name: self.value(item, depth) for name, item in fields.items()}
                return _DESCRIPTIONS[kind](**made)
        raise WireError("unexpected JSON")

    def array(self, dtype: str, shape: list[Any]) -> np.ndarray:
        self.arrays += 1
        kind = np.dtype(dtype) if len(dtype) < 8 else None
        good = kind is not None and kind.kind in KINDS and len(shape) <= MAX_AXES
        good = good and kind.str == dtype and dtype[0] in "<|"
        good = good and all(type(n) is int and 0 <= n <= MAX_FRAME for n in shape)
        if not good or self.arrays > MAX_ARRAYS:
            raise WireError("unexpected array")
        size = math.prod(shape)
        end = self.at + size * kind.itemsize
        if end > len(self.body):
            raise WireError("array beyond the frame")
        if kind.kind == "b":  # a byte of 2 would be True to some operations and not to others
            array = np.frombuffer(self.body, np.uint8, size, self.at) != 0
        else:
            array = np.frombuffer(self.body, kind, size, self.at).copy()
        self.at = end
        return array.reshape(shape)


def outcome_to_plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a dict for `pack`; what served functions were asked is not in it.

    Those calls are counted by the grader, who answers them.
    """
    problem = outcome.problem
    return {
        "values": list(outcome.values),
        "changed": list(outcome.changed),
        "problem": None if problem is None else [problem.kind, problem.text, problem.call],
        "peak": outcome.peak_bytes,
    }


def outcome_from_plain(data: Any, served: dict[str, list[Any]]) -> Outcome:
    """The outcome that a sandbox sent, checked.

    Args:
        data: as from `unpack`.
        served: the grader's own record of what was asked of it.

    Raises:
        WireError: if it is not of the form that `outcome_to_plain` gives.
    """
    match data:
        case {"values": list(values), "changed": list(changed), "problem": problem, "peak": peak}:
            pass
        case _:
            raise WireError("expected an outcome")
    match problem:
        case None:
            found = None
        case [str(kind), str(text), int(call)]:
            found = Problem(kind, text[:500], call)
        case _:
            raise WireError("expected a problem")
    texts = all(isinstance(name, str) for name in changed)
    if not texts or not isinstance(peak, (int, type(None))):
        raise WireError("expected texts and a number")
    return Outcome(tuple(values), tuple(name[:80] for name in changed), found, served, peak)
