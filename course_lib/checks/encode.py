"""Scripts and plain values as JSON (what `course build` writes into `checks/data`).

Arrays above `LARGE` entries are kept as a sample, so that a check at a real size ships as a few
numbers. Floats of outputs are rounded to eight digits (six in float32), so that the files do not
depend on the processor.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from course_lib.checks.script import Call, Case, Drawn, DType, Outcome, Problem, Served, Tensor

#: More entries than this and an output is sampled at `SAMPLE` places.
LARGE = 360
SAMPLE = 120
#: A longer log of served calls says nothing about the thought behind them and is left out.
LONG_LOG = 50
_DATACLASSES = {kind.__name__: kind for kind in (Call, Case, Drawn, DType, Served, Tensor)}


@dataclass(frozen=True)
class Thin:
    """A large array by its shape and evenly spread entries of it."""

    shape: tuple[int, ...]
    entries: np.ndarray


def thin(array: np.ndarray) -> Thin:
    """The sample of a large array that the data files keep."""
    return Thin(array.shape, array.reshape(-1)[places(array.size)])


def places(size: int) -> np.ndarray:
    """Where a large array of so many entries is sampled."""
    return np.linspace(0, size - 1, SAMPLE).astype(int)


def encode(value: Any, *, digits: int | None = None) -> Any:
    """A case, an outcome or a plain value as what JSON can hold.

    Args:
        value: made of the classes of `script`, arrays, numbers, strings and containers.
        digits: round floats to so many significant digits; None keeps them exact.
    """
    match value:
        case np.ndarray() if value.size > LARGE and digits is not None:
            sample = thin(value)
            return {"thin": list(sample.shape), "entries": encode(sample.entries, digits=digits)}
        case np.ndarray():
            fewer = digits is not None and value.dtype in (np.float32, np.float16)
            flat = [encode(x, digits=6 if fewer else digits) for x in _numbers(value)]
            return {"array": str(value.dtype), "shape": list(value.shape), "data": flat}
        case np.generic():
            return {"number": str(value.dtype), "data": encode(value.item(), digits=digits)}
        case bool() | int() | str() | None:
            return value
        case float():
            return _number(value, digits)
        case tuple():
            return {"tuple": [encode(item, digits=digits) for item in value]}
        case list():
            return [encode(item, digits=digits) for item in value]
        case dict():
            pairs = {str(key): encode(item, digits=digits) for key, item in value.items()}
            return {"dict": pairs}
    kind = type(value).__name__
    if kind not in _DATACLASSES:
        raise TypeError(f"value: expected what a script can hold; got a {kind}")
    standard = {
        name: field.default
        for name, field in type(value).__dataclass_fields__.items()
        if name not in ("args", "calls", "params")
    }
    fields = {
        name: encode(getattr(value, name), digits=digits)
        for name in type(value).__dataclass_fields__
        if name not in standard or not _is_standard(getattr(value, name), standard[name])
    }
    return {"script": kind, **fields}


def decode(data: Any) -> Any:
    """What `encode` made, back again (a `Thin` for a large array)."""
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    match data:
        case {"thin": shape, "entries": entries}:
            return Thin(tuple(shape), decode(entries))
        case {"array": dtype, "shape": shape, "data": flat}:
            return np.array([decode(x) for x in flat], dtype=dtype).reshape(shape)
        case {"number": dtype, "data": number}:
            return np.dtype(dtype).type(decode(number))
        case {"float": text}:
            return float(text)
        case {"tuple": items}:
            return tuple(decode(item) for item in items)
        case {"dict": pairs}:
            return {key: decode(item) for key, item in pairs.items()}
    fields = {name: decode(item) for name, item in data.items() if name != "script"}
    return _DATACLASSES[data["script"]](**fields)


def encode_outcome(outcome: Outcome) -> dict[str, Any]:
    """An outcome without its machine-dependent parts, floats rounded."""
    data: dict[str, Any] = {"values": [encode(v, digits=8) for v in outcome.values]}
    if outcome.changed:
        data["changed"] = list(outcome.changed)
    if outcome.problem is not None:
        data["problem"] = [outcome.problem.kind, gist(outcome.problem)]
    if outcome.served and sum(map(len, outcome.served.values())) <= LONG_LOG:
        data["served"] = encode({k: list(v) for k, v in outcome.served.items()}, digits=8)
    return data


def decode_outcome(data: dict[str, Any]) -> Outcome:
    """What `encode_outcome` made; of a problem's text only the gist is left."""
    problem = Problem(*data["problem"]) if "problem" in data else None
    return Outcome(
        tuple(decode(v) for v in data["values"]),
        tuple(data.get("changed", ())),
        problem,
        decode(data["served"]) if "served" in data else {},
    )


def gist(problem: Problem) -> str:
    """Of an exception its class and first words, which do not depend on names and numbers."""
    return " ".join(problem.text.split()[:4]) if problem.kind == "raised" else ""


def _numbers(array: np.ndarray) -> list[Any]:
    """The entries; floats with the fewest digits that give them back in their own dtype."""
    if array.dtype.kind == "f":
        return [float(str(x)) for x in array.flat]
    return array.reshape(-1).tolist()


def _number(value: float, digits: int | None) -> Any:
    if not np.isfinite(value):
        return {"float": str(value)}
    return value if digits is None else float(f"{value:.{digits - 1}e}") + 0.0


def _is_standard(value: Any, standard: Any) -> bool:
    return type(value) is type(standard) and value == standard
