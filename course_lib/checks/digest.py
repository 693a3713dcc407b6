"""Salted digests: whether a number or a matrix is the right one, without holding it.

The exercises that ask for a value ship the digest of the rounded right value (and of the known
wrong ones). Bins are placed so that the value lies near the middle of its own, so a last digit
that was rounded the other way is still accepted.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

#: Rounds of pbkdf2: about ten milliseconds.
ROUNDS = 20_000


def make(value: Any, salt: str, digits: int) -> list[dict[str, Any]]:
    """The digest of a value, one for each row of a table and for each entry of a dict.

    Args:
        value: a number, a text, an array, or a dict or tuple of them.
        salt: of the exercise.
        digits: decimals that count.

    Returns:
        Records for `matches`.
    """
    records = []
    for name, part in parts(value):
        flat, shape = _flat(part)
        shifts = [_shift(x, digits) for x in flat]
        records.append(
            {
                "part": name,
                "shape": shape,
                "shifts": shifts,
                "digits": digits,
                "hash": _hash(flat, shifts, digits, salt + name),
            }
        )
    return records


def mismatches(value: Any, records: Sequence[dict[str, Any]], salt: str) -> list[str]:
    """The parts of a value that are not what was digested; names as in `parts`.

    A value whose parts or shapes differ gives the names of those; ["shape"] if none corresponds.
    """
    return list(_wrong_parts(value, records, salt))


def matches(value: Any, records: Sequence[dict[str, Any]], salt: str) -> bool:
    """Whether a value is what was digested; stops at the first part that is not."""
    return next(_wrong_parts(value, records, salt), None) is None


def _wrong_parts(value: Any, records: Sequence[dict[str, Any]], salt: str) -> Iterator[str]:
    have = {name: _flat(part) for name, part in parts(value)}
    if {name: have[name][1] for name in have} != {r["part"]: r["shape"] for r in records}:
        yield "shape"
        return
    yield from (r["part"] for r in records if not _same(have[r["part"]][0], r, salt))


def _same(flat: Sequence[Any], record: dict[str, Any], salt: str) -> bool:
    found = _hash(flat, record["shifts"], record["digits"], salt + record["part"])
    return found == record["hash"]


def parts(value: Any) -> list[tuple[str, Any]]:
    """Rows of a matrix, entries of a dict or of a ragged tuple, else the whole, with names."""
    if isinstance(value, dict):
        return [(f"entry {key!r}", item) for key, item in sorted(value.items())]
    array = value if isinstance(value, str) else _as_array(value)
    if isinstance(array, np.ndarray) and array.ndim >= 2:
        places = np.ndindex(*array.shape[:-1])
        return [(_row(place), array[place]) for place in places]
    if array is None:
        return [(f"entry {i}", item) for i, item in enumerate(value)]
    return [("the value", value)]


def _row(place: tuple[int, ...]) -> str:
    names = ("row",) if len(place) == 1 else (*["table"] * (len(place) - 1), "row")
    named = [f"{name} {i}" for name, i in zip(names, place, strict=True)]
    return " of ".join(reversed(named))


def _as_array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except ValueError:
        return None


def _flat(value: Any) -> tuple[list[Any], list[int]]:
    if isinstance(value, str):
        return [value.strip().lower()], []
    array = np.asarray(value)
    return array.reshape(-1).tolist(), list(array.shape)


def _shift(x: Any, digits: int) -> int:
    """Which quarter of a bin to shift by, so that the number lies near the middle of its bin."""
    if not isinstance(x, float) or not np.isfinite(x):
        return 2
    place = x * 10**digits / 2
    return min(range(4), key=lambda q: abs((place + q / 4) % 1 - 0.5))


def _bin(x: Any, shift: int, digits: int) -> str:
    if isinstance(x, str):
        return x
    x = float(x)
    if not np.isfinite(x):
        return str(x)
    return str(int(np.floor(x * 10**digits / 2 + shift / 4)))


def _hash(flat: Sequence[Any], shifts: Sequence[int], digits: int, salt: str) -> str:
    if len(flat) != len(shifts):
        return ""
    text = json.dumps([_bin(x, s, digits) for x, s in zip(flat, shifts, strict=True)])
    return _digest(text, salt)


@functools.lru_cache(4096)  # many known mistakes share most of their parts with a right answer
def _digest(text: str, salt: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", text.encode(), salt.encode(), ROUNDS).hex()[:32]
