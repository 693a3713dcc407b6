"""Which line of a student's code raised an error, in one line of words."""

import linecache
import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).parents[2] / "course_")  # the course's packages begin so
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def error_location(error: BaseException) -> str:
    """The error and the deepest line of the student's own code that led to it.

    Args:
        error: with its traceback.

    Returns:
        For example "ValueError: bad shape, in your line 3: `scores @ k`".
    """
    while error.__cause__ is not None:
        error = error.__cause__
    try:
        message = " ".join(str(error).split())
    except Exception:  # an exception of the student's own whose __str__ fails
        message = ""
    if len(message) > 300:
        message = message[:300] + "…"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_students(frame.filename):
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{text}, in your line {frame.lineno}" + (f": `{line}`" if line else "")
    return text


def _is_students(filename: str) -> bool:
    in_notebook = "ipykernel_" in filename or filename.startswith("<")
    if in_notebook:
        return not filename.startswith(("<frozen", "<__array", "<eval", "<torch"))
    return not filename.startswith((_OURS, *_INSTALLED))
