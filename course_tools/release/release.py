"""Writes the student tree (`course release OUT`): what is published, cloned and opened on Colab.

Nothing leaves the teachers' repo unseen: a release is refused while a notebook differs from its
source, and while an exercise or a check holds a solution, a wrong answer or a hidden check, or
any file names the place of one.
"""

import hashlib
import json
import re
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from course_tools.build.notebooks import stale_notebooks
from course_tools.exercise_bank.load import BEGIN, END
from course_tools.project import Project
from course_tools.release.code_similarity import Part, bodies, copied
from course_tools.release.student_tree import student_files

#: The file by which a release knows its own folder: what was written, and its digests.
MARKER = ".course-release"
#: What a folder may hold besides, and keeps: a release can be written into a clone.
_KEPT = (".git", ".github", ".gitattributes")
#: What using the folder leaves behind; the next release drops it.
_TRACES = {".venv", ".ipynb_checkpoints", "__pycache__", "build", "dist"}
#: A solution of a few words is one too.
_SMALL_SOLUTION = 5
_PLACES = re.compile(r"(solutions|misconceptions|hidden|grading)/|course_tools")
_TEXTS = {".py", ".md", ".toml", ".yml", ".json", ".ipynb", ".txt", ".js", ".css", ""}
#: The earliest time that a zip can hold.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


class ReleaseError(ValueError):
    """There is no release to be had; the message says what stands in its way."""


@dataclass(frozen=True)
class Released:
    """What was written.

    Attributes:
        out: the folder.
        archive: the zip file, or None.
        files: how many files the folder holds.
        size: their bytes.
    """

    out: Path
    archive: Path | None
    files: int
    size: int


def release(project: Project, out: Path, *, archive: bool = False) -> Released:
    """Write the student tree.

    Args:
        project: the teachers' working copy.
        out: a folder that is not there, is empty, is a clone without files, or holds an earlier
            release as it was written.
        archive: also write `OUT.zip` beside it, the same bytes for the same tree.

    Returns:
        What was written.

    Raises:
        ReleaseError: if `out` holds anything else, or the tree would hold what students must not
            get; nothing is written then.
        FileNotFoundError: if a notebook was not built yet.
    """
    out = out.resolve()
    zipped = out.with_name(f"{out.name}.zip")
    _refuse_foreign(out)
    if archive and zipped.exists() and not _is_release(zipped):
        raise ReleaseError(f"{zipped} is there and is no release; move it away first")
    files = student_files(project)
    problems = [*stale_notebooks(project), *find_leaked_solutions(files, project.root)]
    if problems:
        lines = "\n".join(f"  {line}" for line in problems)
        raise ReleaseError(f"nothing was written, because\n{lines}")
    files = {MARKER: _marker(files, project), **files}
    _write_tree(files, out)
    if archive:
        name = project.address.rpartition("/")[2]
        _write_zip(files, zipped, f"{name}-{project.version}")
    size = sum(map(len, files.values()))
    return Released(out, zipped if archive else None, len(files), size)


def find_leaked_solutions(files: Mapping[str, bytes], root: Path) -> list[str]:
    """What of the teachers' a student tree holds, one line each.

    Lessons and the library are open-book; exercises and checks are compared as syntax trees.

    Args:
        files: path -> content.
        root: the folder of the teachers' pyproject.toml.
    """
    found = []
    for path, content in files.items():
        place = _PLACES.search(f"/{path}")
        if place is None and PurePosixPath(path).suffix in _TEXTS:
            place = _PLACES.search(content.decode("utf-8"))
        if place is not None:
            found.append(f"{path}: speaks of {place[0]!r}, which only teachers have")
    secret = secret_parts(root)
    # A question may show a mistake and ask about it; an answer it may not show.
    answers = {name: parts for name, parts in secret.items() if "/misconceptions/" not in name}
    return [
        *found,
        *copied(secret, student_code(files)),
        *copied(answers, student_texts(files)),
    ]


def secret_parts(root: Path) -> dict[str, list[Part]]:
    """The code that students must not get: solutions, hidden checks, known answers."""
    folder = root / "solutions"
    parts = {
        f"solutions/{file.name}": bodies(
            file.read_text("utf-8"), (BEGIN, END), at_least=_SMALL_SOLUTION
        )
        for file in sorted(folder.glob("*.py"))
    }
    for kind in ("hidden", "misconceptions", "accepted"):
        for file in sorted((folder / kind).glob("*.py")):
            parts[f"solutions/{kind}/{file.name}"] = bodies(file.read_text("utf-8"))
    return parts


def student_code(files: Mapping[str, bytes]) -> dict[str, str]:
    """The code of the checks and of the exercises' cells."""
    sources: dict[str, str] = {}
    for path, content in files.items():
        if path.startswith("course_lib/checks/") and path.endswith(".py"):
            sources[path] = content.decode("utf-8")
        elif path.startswith("exercises/"):
            cells = json.loads(content)["cells"]
            code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
            sources[path] = re.sub(r"^( *)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
    return sources


def student_texts(files: Mapping[str, bytes]) -> dict[str, str]:
    """What looks like code within the texts of exercises and checks."""
    sources: dict[str, str] = {}
    for path, content in files.items():
        if path.startswith("course_lib/checks/") and path.endswith(".json"):
            texts = list(_texts(json.loads(content)))
        elif path.startswith("exercises/"):
            texts = ["".join(cell["source"]) for cell in json.loads(content)["cells"]]
        else:
            continue
        for code in (code for text in texts for code in _quoted(text)):
            sources[f"{path}, quotation {len(sources)}: `{code.splitlines()[0][:60]}`"] = code
    return sources


# --- parts ---------------------------------------------------------------------------------------


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, (list, dict)):
        for item in data.values() if isinstance(data, dict) else data:
            yield from _texts(item)


def _quoted(text: str) -> list[str]:
    """Fenced blocks, and what stands between backticks."""
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", text)
    codes = (textwrap.dedent(code).strip() for code in (*fenced, *inline))
    return [code for code in codes if code]


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds what no release wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ReleaseError(f"{out} is a file; name a folder")
    there = {
        path.relative_to(out).as_posix(): path
        for path in out.rglob("*")
        if not path.is_dir() and not _passed_over(path.relative_to(out))
    }
    marker = there.pop(MARKER, None)
    if there and marker is None:
        raise ReleaseError(
            f"{out} is not empty and holds no release ({sorted(there)[0]}); name a new folder"
        )
    known = _digests(marker) if marker is not None else {}
    foreign = sorted(
        name
        for name, path in there.items()
        if path.is_symlink() or known.get(name) != hashlib.sha256(path.read_bytes()).hexdigest()
    )
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ReleaseError(
            f"{out} holds files that no release wrote, or that were changed since: {shown}; "
            "move them away, or name a new folder"
        )


def _passed_over(path: Path) -> bool:
    first = path.parts[0]
    traces = any(part in _TRACES or part.endswith(".egg-info") for part in path.parts)
    return first in _KEPT or traces


def _marker(files: Mapping[str, bytes], project: Project) -> bytes:
    lines = [f"Written by `course release` (version {project.version}); the next one replaces it."]
    lines += [f"{hashlib.sha256(content).hexdigest()}  {path}" for path, content in files.items()]
    return ("\n".join(lines) + "\n").encode()


def _digests(marker: Path) -> dict[str, str]:
    lines = marker.read_text("utf-8").splitlines()[1:]
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def _write_tree(files: Mapping[str, bytes], out: Path) -> None:
    """Write a whole new folder beside the old one, then let it take its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as rest:
        new, old = Path(rest, "new"), Path(rest, "old")
        for path, content in files.items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        new.chmod(0o755)
        if not out.exists():
            new.rename(out)
            return
        out.rename(old)
        try:
            for name in _KEPT:
                if (old / name).exists():
                    (old / name).rename(new / name)
            new.rename(out)
        except BaseException:
            for name in _KEPT:
                if (new / name).exists():
                    (new / name).rename(old / name)
            old.rename(out)
            raise


def _write_zip(files: Mapping[str, bytes], target: Path, folder: str) -> None:
    """The same files in the same order with the same times: the same bytes."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as rest:
        part = Path(rest, "zip")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path, content in files.items():
                entry = zipfile.ZipInfo(f"{folder}/{path}", _LONG_AGO)
                entry.external_attr = 0o100644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # the rights above are those of Unix, wherever it is made
                archive.writestr(entry, content)
        part.replace(target)


def _is_release(archive: Path) -> bool:
    if not zipfile.is_zipfile(archive):
        return False
    names: Sequence[str] = zipfile.ZipFile(archive).namelist()
    return any(name.endswith(f"/{MARKER}") for name in names)
