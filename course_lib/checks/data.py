"""The data of the visible checks, as `course build` wrote it (one JSON file a chapter)."""

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def chapter(number: int) -> dict[str, Any]:
    """The exercises and questions of a chapter; empty if there is no such chapter."""
    file = resources.files("course_lib.checks") / "data" / f"chapter_{number}.json"
    if not file.is_file():
        return {"chapter": number, "exercises": {}, "questions": {}}
    return json.loads(file.read_text("utf-8"))


def exercise(number: str) -> dict[str, Any]:
    """What is known of an exercise.

    Raises:
        KeyError: if there is none with this number; the message lists those there are.
    """
    return _entry("exercises", number)


def question(number: str) -> dict[str, Any]:
    """What is known of a concept question.

    Raises:
        KeyError: if there is none with this number; the message lists those there are.
    """
    return _entry("questions", number)


def _entry(kind: str, number: str) -> dict[str, Any]:
    first = number.split(".")[0]
    found = chapter(int(first))[kind] if first.isdecimal() else {}
    if number in found:
        return found[number]
    known = found or [n for c in range(1, 10) for n in chapter(c)[kind]]
    raise KeyError(f"there is no number {number!r}; there are {', '.join(known)}")
