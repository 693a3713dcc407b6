"""What students get: every file of the student tree, by its path (used by `course release`).

Lessons, exercises and library are the repo's own files. README, pyproject.toml, environment.yml
and Makefile are made here from the teachers' ones, so no fact stands twice.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import tomli_w
from packaging.requirements import Requirement

from course_tools.exercise_bank.load import exercise_sources
from course_tools.project import Project

#: Files that students get as they are; what opens the course elsewhere is among them.
COPIED = (
    "LICENSE",
    "CITATION.cff",
    "constraints.txt",
    "docs/images/explorer.png",
    ".binder/environment.yml",
    ".binder/postBuild",
    ".devcontainer/Dockerfile",
    ".devcontainer/devcontainer.json",
)
#: What a student's environment has beyond the library's own requirements.
_EXTRAS = ("real", "lab")
#: What conda-forge calls a package.
_CONDA_NAMES = {"torch": "pytorch"}
#: Rules of the Makefile that students have use for.
_RULES = ("lab", "clean", ".venv/lab-ready", ".venv")
_MAKEFILE = """\
# make lab   opens the course       (LAB_ARGS="--no-browser --port 8889" passes options on)
# It sets up .venv on the first run; it needs Python 3.11 or newer and make, nothing else.
"""
_IGNORED = ".venv/\n__pycache__/\n.ipynb_checkpoints/\n*.egg-info/\nbuild/\ndist/\n"
#: Scripts keep their line ends in a checkout on Windows.
_LINE_ENDS = "* text=auto eol=lf\n*.png binary\n"
_BADGE_TABLE = r"<!-- {}: written by `course build` -->\n(.*?)\n<!-- end -->"


def student_files(project: Project) -> dict[str, bytes]:
    """Every file of the student tree, path -> content, sorted by path.

    Args:
        project: the teachers' working copy.

    Raises:
        FileNotFoundError: if a notebook was not built yet.
        ValueError: if the repo's README lacks a section that the students' one takes over.
    """
    root = project.root
    copied = [
        *(root / name for name in COPIED),
        *(root / f"{notebook.page}.ipynb" for notebook in project.notebooks),
        *(root / "exercises" / f"{file.stem}.ipynb" for file in exercise_sources(root).values()),
        *_library(root),
        *_benchmarks(project),
    ]
    for file in copied:
        if not file.is_file():
            place = file.relative_to(root).as_posix()
            raise FileNotFoundError(f"{place} is not there; run `course build` first")
    made = {
        "README.md": readme(project),
        "pyproject.toml": pyproject(project),
        "environment.yml": environment(project),
        "Makefile": makefile((root / "Makefile").read_text("utf-8")),
        ".gitignore": _IGNORED,
        ".gitattributes": _LINE_ENDS,
    }
    files = {file.relative_to(root).as_posix(): file.read_bytes() for file in copied}
    files |= {name: text.encode() for name, text in made.items()}
    return dict(sorted(files.items()))


def readme(project: Project) -> str:
    """The students' README: its own words, and the tables and sections of the repo's."""
    text = (project.root / "README.md").read_text("utf-8")
    parts = {
        "introduction": text.partition("\n## ")[0],
        "chapters": _between(text, _BADGE_TABLE.format("chapters"), "table of chapters"),
        "exercises": _between(text, _BADGE_TABLE.format("exercises"), "table of exercises"),
        "library": _section(text, "The library"),
        "licence": _section(text, "Licence"),
    }
    page = (Path(__file__).parent / "student" / "README.md").read_text("utf-8")
    return re.sub(r"^@(\w+)$", lambda m: parts[m[1]].strip(), page, flags=re.MULTILINE)


def pyproject(project: Project) -> str:
    """The students' pyproject.toml: the library, and what opens it in JupyterLab."""
    facts = tomllib.loads((project.root / "pyproject.toml").read_text("utf-8"))
    about = facts["project"]
    kept = (
        "name", "version", "description", "readme", "license", "license-files",
        "requires-python", "keywords", "dependencies",
    )  # fmt: skip
    included = facts["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    wheel = {"packages": ["course_lib"], "force-include": included}
    theirs = {
        "build-system": facts["build-system"],
        "project": {name: about[name] for name in kept}
        | {
            "optional-dependencies": {
                extra: about["optional-dependencies"][extra] for extra in _EXTRAS
            },
            "urls": {"Homepage": project.address},
        },
        "tool": {"hatch": {"build": {"targets": {"wheel": wheel}}}},
    }
    return tomli_w.dumps(theirs)


def environment(project: Project) -> str:
    """The students' conda environment."""
    about = tomllib.loads((project.root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = (about["optional-dependencies"][extra] for extra in _EXTRAS)
    wanted = sorted({*about["dependencies"], *(line for each in extras for line in each)})
    by_conda, by_pip = [], []
    for one in map(Requirement, wanted):
        if one.extras:  # another of the extras
            continue
        if one.marker is not None:  # conda has none
            by_pip.append(f"{one.name} {one.specifier}; {one.marker}")
        else:
            by_conda.append(f"{_CONDA_NAMES.get(one.name, one.name)} {one.specifier}")
    lines = [
        "# The conda route, also the one for Windows:",
        "#   conda env create -f environment.yml",
        "#   conda activate causal-attention",
        "name: causal-attention",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python {about['requires-python']}",
        "  - pip",
        *(f"  - {line}" for line in by_conda),
        "  - pip:",
        *(f"      - {line}" for line in by_pip),
        "      - -e .",
    ]
    return "\n".join(lines) + "\n"


def makefile(text: str) -> str:
    """The students' Makefile: the repo's rules that open the course, and no others.

    Raises:
        ValueError: if the repo's Makefile lacks one of them.
    """
    blocks = text.strip().split("\n\n")
    rules = {m[1]: b for b in blocks if (m := re.match(r"([\w./-]+):", b))}
    missing = [name for name in _RULES if name not in rules]
    if missing:
        raise ValueError(f"Makefile: expected a rule for {missing[0]}")
    settings = [b for b in blocks if re.match(r"\w+ :?\??=", b)]
    phony = ".PHONY: lab clean"
    kept = [_MAKEFILE.strip(), *settings, phony, *(rules[name] for name in _RULES)]
    return "\n\n".join(kept) + "\n"


# --- parts ---------------------------------------------------------------------------------------


def _library(root: Path) -> Iterator[Path]:
    package = root / "course_lib"
    for file in sorted(package.rglob("*")):
        parts = file.relative_to(package).parts
        hidden = any(part.startswith((".", "__pycache__")) for part in parts)
        if file.is_file() and not hidden:
            yield file


def _benchmarks(project: Project) -> Iterator[Path]:
    """The scripts that a lesson names, what they import, and their recorded runs."""
    folder = project.root / "benchmarks"
    sources = (project.root / notebook.source for notebook in project.notebooks)
    text = "\n".join(source.read_text("utf-8") for source in sources)
    named = set(re.findall(r"benchmarks/(\w+)\.py", text))
    scripts = "\n".join((folder / f"{name}.py").read_text("utf-8") for name in named)
    for name in sorted(named | set(re.findall(r"from benchmarks\.(\w+) import", scripts))):
        yield folder / f"{name}.py"
        result = folder / "results" / f"{name}.json"
        if result.is_file():
            yield result


def _section(text: str, heading: str) -> str:
    return _between(text, rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", f"section {heading!r}")


def _between(text: str, pattern: str, what: str) -> str:
    found = re.findall(pattern, text, re.DOTALL | re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"README.md: expected one {what}; found {len(found)}")
    return found[0]
