"""How the grader and the sandbox talk: frames of JSON and raw numbers, with limits (no pickle).

A frame is a fixed head (magic, lengths), the JSON of a tree (`course_lib.checks.codec`), and the
bytes of its arrays one after the other. Reading one can allocate no more than `MAX_FRAME` and gives
only what `script` calls plain; whatever else comes is a `WireError`. Frames travel in envelopes:
one letter, a length, bytes. This module runs on both sides and knows no answer.
"""

import json
import math
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from course_lib.checks.codec import KINDS, MAX_ITEMS, Reader, Writer
from course_lib.checks.script import Case, Outcome, Problem

#: Most bytes of one frame, its arrays included, and of its JSON alone.
MAX_FRAME, MAX_JSON = 32 * 10**6, 8 * 10**6
#: Most axes of an array, most arrays of a frame.
MAX_AXES, MAX_ARRAYS = 12, 20_000

ENVELOPE = struct.Struct("<cI")
_HEAD = struct.Struct("<4sII")  # magic, bytes of JSON, bytes of arrays
_MAGIC = b"CAC2"


class WireError(ValueError):
    """What came is not a frame within the limits."""


class _FrameWriter(Writer):
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def array(self, array: np.ndarray) -> dict[str, Any]:
        if array.ndim > MAX_AXES:
            raise ValueError(f"expected at most {MAX_AXES} axes; got {array.ndim}")
        dtype = array.dtype.newbyteorder("<")
        self.parts.append(np.ascontiguousarray(array, dtype=dtype).tobytes())
        return {"array": dtype.str, "shape": list(array.shape)}


class _FrameReader(Reader):
    def __init__(self, body: bytes, *, trusted: bool) -> None:
        super().__init__(trusted=trusted)
        self.body, self.at, self.arrays = body, 0, 0

    def array(self, tree: dict[str, Any]) -> np.ndarray:
        match tree:
            case {"array": str(name), "shape": list(shape)} if len(name) < 8:
                dtype = np.dtype(name)
            case _:
                raise ValueError("unexpected JSON")
        self.arrays += 1
        good = dtype.kind in KINDS and dtype.str == name and name[0] in "<|"
        good = good and len(shape) <= MAX_AXES and self.arrays <= MAX_ARRAYS
        if not good or not all(type(n) is int and 0 <= n <= MAX_FRAME for n in shape):
            raise ValueError("unexpected array")
        size = math.prod(shape)
        end = self.at + size * dtype.itemsize
        if end > len(self.body):
            raise ValueError("array beyond the frame")
        if dtype.kind == "b":  # a byte of 2 would be True to some operations and not to others
            array = np.frombuffer(self.body, np.uint8, size, self.at) != 0
        else:
            array = np.frombuffer(self.body, dtype, size, self.at).copy()
        self.at = end
        return array.reshape(shape)


def pack(value: Any) -> bytes:
    """A plain value, scripts or an outcome as one frame.

    Args:
        value: made of what `codec.Writer` takes.

    Raises:
        WireError: if it holds anything else or is beyond a limit.
    """
    writer = _FrameWriter()
    try:
        text = json.dumps(writer.tree(value), ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(str(error)) from None
    body = b"".join(writer.parts)
    if len(text) > MAX_JSON or len(text) + len(body) > MAX_FRAME:
        raise WireError(f"expected at most {MAX_FRAME} bytes; got {len(text) + len(body)}")
    return _HEAD.pack(_MAGIC, len(text), len(body)) + text + body


def unpack(read: Callable[[int], bytes], *, trusted: bool = False) -> Any:
    """The next frame.

    Args:
        read: gives exactly so many bytes, or raises.
        trusted: also take scripts, and texts of any letters, which only the grader sends.

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
        tree = json.loads(text, parse_constant=_refuse)
        return _FrameReader(body, trusted=trusted).value(tree)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise WireError(f"malformed frame: {type(error).__name__}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def checked(outcome: Any, case: Case, callbacks: dict[str, list[Any]]) -> Outcome:
    """The outcome that a sandbox sent, if it is one.

    Args:
        outcome: as from `unpack`.
        case: its script: each of the calls gives a value, unless there is a problem.
        callbacks: the grader's own record of what was asked of it.

    Raises:
        WireError: if its fields are not those of an outcome of the script.
    """
    most = max(1, len(case.calls))
    match outcome:
        case Outcome(
            values=list() | tuple() as values,
            changed=list() | tuple() as changed,
            problem=None | Problem(kind=str(), text=str(), call=int()) as problem,
            peak_bytes=None | int() as peak,
        ) if (
            all(isinstance(name, str) for name in changed)
            and len(values) <= most
            and (problem is not None or len(values) == most)
        ):
            short = problem and replace(problem, text=problem.text[:500])
            names = tuple(name[:80] for name in changed)
            return Outcome(tuple(values), names, short, callbacks, peak)
    raise WireError("expected an outcome")


def reader(data: bytes) -> Callable[[int], bytes]:
    """Reads bytes one part after the other; what is missing at their end is left out."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    return read


def exactly(line: socket.socket, size: int) -> bytes:
    """So many bytes of a blocking socket.

    Raises:
        EOFError: if the other end has closed it.
    """
    data = bytearray()
    while len(data) < size:
        part = line.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError("the other end has closed the line")
        data += part
    return bytes(data)
