"""The version stands once, in `pyproject.toml`; `course build` writes it wherever it is shown."""

import re

from course_tools.project import Project

#: Files that show the version.
PLACES = (
    "course_lib/__init__.py",
    "CITATION.cff",
    "README.md",
    "deploy/kubernetes/*.yaml",
    "docs/teaching/*.md",
)
_SHOWN = re.compile(
    r'(\bv|\b[Vv]ersion |^version: |^__version__ = "|causal-attention-grader:)\d+\.\d+\.\d+\w*',
    re.MULTILINE,
)


def write_version(project: Project, *, check: bool) -> list[str]:
    """Write the version wherever it is shown, or say where another one stands.

    Args:
        project: the working copy.
        check: compare and change nothing.

    Returns:
        With `check`, one line for each file that shows another version.
    """
    problems = []
    for file in (f for place in PLACES for f in sorted(project.root.glob(place))):
        text = file.read_text("utf-8")
        new = _SHOWN.sub(rf"\g<1>{project.version}", text)
        if new != text and check:
            name = file.relative_to(project.root).as_posix()
            problems.append(f"{name}: shows another version than {project.version}")
        elif new != text:
            file.write_text(new, "utf-8")
    return problems
