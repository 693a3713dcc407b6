"""What a student reads: a page that stands alone, and the results that Gradescope shows.

Students see claims and sentences about their own output, never an expected value of a hidden
input. All text came from outside, so Jinja2 escapes it.
"""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from course_lib import __version__
from course_lib.figures.palette import DARK, LIGHT, css_variables
from course_tools.grading.results import GRADED, UNSAFE, About, ExerciseResult, Result, Student
from course_tools.grading.tables import number


def feedback(student: Student, about: About) -> str:
    """A student's page: for a phone, a desk and paper."""
    return _TEMPLATE.render(
        name=student.name or student.student, student=student, about=about,
        palette=_palette(), unsafe=UNSAFE, version=__version__,
    )  # fmt: skip


def gradescope(result: Result, about: About) -> dict[str, Any]:
    """results.json of one submission, in the form that Gradescope's autograder reads."""
    lines = [UNSAFE] if about.unsafe else []
    lines += [] if result.status == GRADED else [f"Not graded: {result.status}."]
    return {
        "score": result.earned,
        "output": "\n".join(lines),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "number": exercise.number,
                "name": f"{exercise.number} {exercise.answer}",
                "score": exercise.earned,
                "max_score": exercise.points,
                "status": "passed" if exercise.earned == exercise.points else "failed",
                "output": "\n".join(_lines(exercise)),
                "output_format": "text",
                "visibility": "visible",
            }
            for exercise in result.exercises
        ],
        "extra_data": {"student": result.student, "file": result.file, "chapter": result.chapter},
    }


def _lines(exercise: ExerciseResult) -> list[str]:
    """An exercise of the page as plain text."""
    lines, told = [exercise.note] if exercise.note else [], set()
    for claim in exercise.claims:
        lines.append(f"{'✓' if claim.wrong is None else '✗'} {claim.says}")
        if claim.wrong is not None:
            lines.append(f"    {'As above.' if claim.reason in told else claim.reason}")
            told.add(claim.reason)
    if exercise.misconception:
        lines.append(f"{_looks_like(exercise)} {exercise.advice}")
    lines += [f"On the inputs of the check in the notebook: {text}" for text in exercise.seen[:1]]
    if exercise.again and _kind(exercise) != "right":
        lines.append(f"Read again: {_place(exercise.again)}")
    return lines


# --- filters of the template ---------------------------------------------------------------------


def _kind(exercise: ExerciseResult) -> str:
    if exercise.status != GRADED:
        return "none"
    return "right" if exercise.earned >= exercise.points else "wrong"


def _looks_like(exercise: ExerciseResult) -> str:
    start = "In part this looks like" if exercise.in_part else "This looks like"
    return f"{start}: {exercise.misconception}."


def _place(again: str) -> str:
    path, _, anchor = again.partition("#")
    return f'"{anchor.replace("-", " ")}" in {path}' if anchor else path


def _address(again: str, about: About) -> str:
    """Where the passage is published, or ""."""
    published = about.address and "/OWNER/" not in about.address
    return f"{about.address}/blob/{about.tag}/{again}" if published else ""


def _sentence(text: str) -> str:
    end = "" if text.endswith((".", "?", "!")) else "."
    return text[:1].upper() + text[1:] + end


def _rich(text: str) -> Markup:
    """`code` and *emphasis*, all else escaped."""
    safe = re.sub(r"`([^`\n]{1,200})`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"(?<![\w*])\*(\S|\S[^*\n]*\S)\*(?![\w*])", r"<em>\1</em>", safe))


def _palette() -> Markup:
    """The palette as CSS variables, for a light and a dark screen and for paper."""
    light, dark = (css_variables("--", theme) for theme in (LIGHT, DARK))
    return Markup(
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("course_tools.grading", "."), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number, "rich": _rich, "kind": _kind, "looks_like": _looks_like,
        "place": _place, "address": _address, "sentence": _sentence,
    }  # fmt: skip
    return environment.get_template("feedback.html.j2")


_TEMPLATE = _template()
