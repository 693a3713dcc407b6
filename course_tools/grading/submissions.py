"""What students handed in: notebooks in folders and zip files, as learning platforms give them.

Nothing here trusts a name, a size or a time that came with a file: links are not followed, zip
files are read in memory with limits, and nothing is ever unpacked to disk. A file that cannot be
graded becomes a submission whose status says why; the rest go on.
"""

import io
import os
import re
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from course_tools.exercise_bank.load import Bank
from course_tools.grading.platforms import (
    Who,
    clean_name,
    gradescope_submitters,
    seconds,
    who_handed_in,
)
from course_tools.grading.read_notebook import Cell, NotANotebookError, chapter_of, read_cells

#: Most bytes of a notebook, and of a zip file inside a zip file.
MAX_NOTEBOOK, MAX_INNER_ZIP = 20 * 10**6, 100 * 10**6
#: Most entries of a folder tree and of a zip file; of a zip file inside another one.
MAX_ENTRIES, MAX_INNER_ENTRIES = 50_000, 2_000
#: Most bytes that a zip file may unpack to in all; one inside another.
MAX_UNPACKED, MAX_INNER_UNPACKED = 4 * 10**9, 200 * 10**6
#: Most bytes that one compressed byte of a larger entry may become, most zip files in each other.
MAX_RATIO, MAX_NESTING = 300, 3
_SMALL, _MAX_PARTS, _MAX_PATH = 10**6, 30, 2_000
#: A notebook by its name: browsers add endings.
_NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)
_METADATA, _TIMESTAMP = "submission_metadata.yml", "timestamp.txt"


@dataclass(frozen=True)
class Submission:
    """One notebook of one student.

    Attributes:
        student: who, unique in the tables; the file's name if nothing better is known.
        name: the student's name, if known.
        ids: the student's numbers in other systems: {"canvas": "4711"}.
        file: where it lies, for people: "week5.zip/lee_4711_99_05_kv_cache.ipynb".
        cells: of the notebook.
        time: when it was handed in (seconds since 1970), as far as files tell.
        superseded: files of the same student and chapter that this one replaces.
        replaced: whether a later one replaces it.
        chapter: which chapter it answers, if that is known already.
        status: why it cannot be graded, or "".
        late: whether the platform says so.
        rank: what orders the attempts of a student, besides the time: Canvas counts them.
    """

    student: str
    name: str
    ids: Mapping[str, str]
    file: str
    cells: Sequence[Cell] = ()
    time: float = 0.0
    superseded: Sequence[str] = field(default=())
    replaced: bool = False
    chapter: int | None = None
    status: str = ""
    late: bool = False
    rank: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Found:
    """All that a folder holds.

    Attributes:
        submissions: by student, replaced ones included.
        problems: what was left out and why, for the teacher.
    """

    submissions: Sequence[Submission]
    problems: Sequence[str]


def find_submissions(folder: Path, bank: Bank, leave_out: Sequence[Path] = ()) -> Found:
    """Read what is in a folder, or in a zip file.

    Args:
        folder: as Canvas, Moodle, Gradescope or nbgrader give it, or plain files.
        bank: the exercises, to tell which chapter a notebook answers.
        leave_out: folders inside it that are not submissions, such as the one for the results.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if it is a file of another kind.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder or zip file")
    finder = _Finder(bank)
    if folder.is_dir():
        finder.take(_in_folder(folder, [p.resolve() for p in leave_out], finder.problems), 0)
    elif zipfile.is_zipfile(folder):
        with folder.open("rb") as stream:
            finder.take_zip(stream, (), 0)
    elif _NOTEBOOK.search(folder.name):
        finder.take([_file_entry(folder, (folder.name,))], 0)
    else:
        raise ValueError(f"{folder}: expected a folder, a zip file or a notebook")
    return Found(tuple(_latest_first(finder.all())), tuple(finder.problems))


# --- entries: files in folders and in zip files --------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A file somewhere; `read` gives at most so many bytes and raises `_UnreadError`."""

    parts: tuple[str, ...]
    size: int
    time: float
    read: Callable[[int], bytes]

    @property
    def file(self) -> str:
        return "/".join(clean_name(part) for part in self.parts)


class _UnreadError(Exception):
    """A file that cannot be read; the message says why."""


def _in_folder(root: Path, leave_out: Sequence[Path], problems: list[str]) -> Iterator[_Entry]:
    start, count = (root.name,) if root.name == "submitted" else (), 0
    for where, folders, files in os.walk(root, followlinks=False):
        here = Path(where)
        inside = here.relative_to(root).parts
        for name in [*folders, *files]:
            if (here / name).is_symlink():
                problems.append(f"{clean_name('/'.join((*inside, name)))}: a link, not followed")
        folders[:] = sorted(
            name
            for name in folders
            if not _ignored(name)
            and not (here / name).is_symlink()
            and (here / name).resolve() not in leave_out
        )
        if len(inside) >= _MAX_PARTS:
            problems.append(f"{clean_name('/'.join(inside))}: too many folders inside each other")
            folders.clear()
        for name in sorted(files):
            if _ignored(name) or (here / name).is_symlink():
                continue
            count += 1
            if count > MAX_ENTRIES:
                problems.append(f"more than {MAX_ENTRIES} files: the rest was left out")
                return
            yield _file_entry(here / name, (*start, *inside, name))


def _file_entry(path: Path, parts: tuple[str, ...]) -> _Entry:
    about = path.lstat()

    def read(most: int) -> bytes:
        try:
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            flags |= getattr(os, "O_BINARY", 0)
            with open(os.open(path, flags), "rb") as stream:  # noqa: PTH123 (opened with flags)
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise _UnreadError("not an ordinary file")
                return stream.read(most)
        except OSError as error:
            raise _UnreadError(f"cannot be read ({type(error).__name__})") from None

    return _Entry(parts, about.st_size, about.st_mtime, read)


def _in_zip(
    file: zipfile.ZipFile, start: tuple[str, ...], depth: int, problems: list[str]
) -> Iterator[_Entry]:
    """The entries that may be read; what is unsafe or beyond a limit is a problem."""
    where = clean_name("/".join(start) or "the zip file")
    inner = depth > 1
    most = MAX_INNER_ENTRIES if inner else MAX_ENTRIES
    left = [MAX_INNER_UNPACKED if inner else MAX_UNPACKED]
    infos = file.infolist()
    if len(infos) > most:
        problems.append(f"{where}: {len(infos)} entries, at most {most} are read")
    for info in infos[:most]:
        name = _zip_name(info)
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        ignored = any(_ignored(part) for part in parts if part != "..")
        if info.is_dir() or not parts or ignored:
            continue
        full = f"{where}/{clean_name(name)}"
        if ".." in parts or name.startswith("/") or re.match(r"[A-Za-z]:", name):
            problems.append(f"{full}: a path that leaves the zip file, left out")
        elif stat.S_ISLNK(info.external_attr >> 16):
            problems.append(f"{full}: a link, not followed")
        elif len(parts) > _MAX_PARTS or len(name) > _MAX_PATH:
            problems.append(f"{full}: too many folders inside each other, left out")
        else:
            yield _zip_entry(file, info, (*start, *parts), left)


def _zip_entry(
    file: zipfile.ZipFile, info: zipfile.ZipInfo, parts: tuple[str, ...], left: list[int]
) -> _Entry:
    def read(most: int) -> bytes:
        if info.flag_bits & 1:
            raise _UnreadError("it is encrypted")
        if info.file_size > max(_SMALL, MAX_RATIO * info.compress_size):
            raise _UnreadError("it unpacks to far more than it is (a zip bomb)")
        if min(most, info.file_size) > left[0]:
            raise _UnreadError("its zip file unpacks to too much in all")
        try:
            with file.open(info) as stream:
                data = stream.read(most)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as e:
            raise _UnreadError(f"damaged in its zip file ({type(e).__name__})") from None
        left[0] -= len(data)
        return data

    try:
        when = time.mktime((*info.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        when = 0.0
    return _Entry(parts, info.file_size, when, read)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of an entry: many programs write UTF-8 without saying so."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):  # else an old code page, which Python has read
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _ignored(name: str) -> bool:
    """Files of systems: checkpoints of Jupyter, resource forks of macOS."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


# --- all of them ---------------------------------------------------------------------------------


class _Finder:
    """Collects submissions from entries, zip files inside zip files included."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.problems: list[str] = []
        self.submissions: list[Submission] = []
        self.others: dict[str, list[tuple[Who, _Entry]]] = {}
        stems = {file.stem for file in (bank.root / "solutions").glob("[0-9][0-9]_*.py")}
        words = "|".join(sorted(re.escape(stem) for stem in stems)) or "(?!)"
        self.own = re.compile(words)

    def take(self, entries: Iterator[_Entry] | Sequence[_Entry], depth: int) -> None:
        """Read the entries of a folder or a zip file."""
        submitters: dict[tuple[str, ...], Sequence[Who]] = {}
        stamps: dict[tuple[str, ...], float] = {}
        rest: list[_Entry] = []
        for entry in entries:
            *folder, name = entry.parts
            if name == _METADATA:
                for key, people in self.submitters(entry, tuple(folder)).items():
                    submitters.setdefault(key, people)
            elif name == _TIMESTAMP:
                stamps[tuple(folder)] = seconds(self.text(entry))
            else:
                rest.append(entry)
        for entry in rest:
            name = entry.parts[-1].lower()
            people = who_handed_in(entry.parts, submitters, self.own)
            when = stamps.get(entry.parts[:-1])
            people = [p if p.time or not when else replace(p, time=when) for p in people]
            if name.endswith(".zip"):
                self.zip(entry, people, depth)
            elif _NOTEBOOK.search(name):
                self.notebook(entry, people)
            elif people[0].known:
                for who in people:
                    self.others.setdefault(who.student, []).append((who, entry))
            else:
                self.problems.append(f"{entry.file}: not a notebook, left out")

    def text(self, entry: _Entry) -> str:
        """A file of the platform's own."""
        try:
            return entry.read(MAX_NOTEBOOK).decode("utf-8", "replace")
        except _UnreadError as error:
            self.problems.append(f"{entry.file}: {error}")
            return ""

    def submitters(
        self, entry: _Entry, folder: tuple[str, ...]
    ) -> Mapping[tuple[str, ...], Sequence[Who]]:
        """Gradescope's list of who handed in what."""
        try:
            return gradescope_submitters(self.text(entry), folder)
        except ValueError as error:
            self.problems.append(f"{entry.file}: {error}")
            return {}

    def zip(self, entry: _Entry, people: Sequence[Who], depth: int) -> None:
        """A zip file among the entries."""
        wrong = None
        if depth >= MAX_NESTING:
            wrong = "too many zip files inside each other"
        elif entry.size > (MAX_INNER_ZIP if depth else MAX_UNPACKED):
            wrong = f"too large: {entry.size / 1e6:.0f} MB"
        else:
            try:
                data = entry.read(MAX_INNER_ZIP if depth else MAX_UNPACKED)
                if not self.take_zip(io.BytesIO(data), entry.parts, depth):
                    wrong = "a damaged zip file"
            except _UnreadError as error:
                wrong = str(error)
        if wrong is not None:
            self.problems.append(f"{entry.file}: {wrong}")
            for who in people:
                self.add(who, entry, status=f"{wrong} ({entry.parts[-1]})"[:200])

    def take_zip(self, stream: io.BufferedIOBase, parts: tuple[str, ...], depth: int) -> bool:
        """Read a zip file; False if it is none."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(zipfile.ZipFile(stream))
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
                return False
            self.take(list(_in_zip(file, parts, depth + 1, self.problems)), depth + 1)
        return True

    def notebook(self, entry: _Entry, people: Sequence[Who]) -> None:
        """A notebook among the entries."""
        if entry.size > MAX_NOTEBOOK:
            status = f"too large: {entry.size / 1e6:.1f} MB, at most {MAX_NOTEBOOK // 10**6}"
            for who in people:
                self.add(who, entry, status=status)
            return
        cells: Sequence[Cell] = ()
        chapter, status = None, ""
        try:
            raw = entry.read(MAX_NOTEBOOK + 1)
            if len(raw) > MAX_NOTEBOOK:
                raise _UnreadError(f"too large: more than {MAX_NOTEBOOK // 10**6} MB")
            cells = read_cells(raw)
            chapter = chapter_of(cells, self.bank)
        except (_UnreadError, NotANotebookError) as error:
            status = str(error)
        for who in people:
            self.add(who, entry, cells=cells, chapter=chapter, status=status)

    def add(
        self,
        who: Who,
        entry: _Entry,
        *,
        cells: Sequence[Cell] = (),
        chapter: int | None = None,
        status: str = "",
    ) -> None:
        """One submission."""
        self.submissions.append(
            Submission(
                who.student, who.name, who.ids, entry.file, cells,
                time=entry.time if who.time is None else who.time,
                chapter=chapter, status=status, late=who.late, rank=who.rank,
            )
        )  # fmt: skip

    def all(self) -> list[Submission]:
        """What was found; students who handed in no notebook have a status that says so."""
        have = {submission.student for submission in self.submissions}
        for student, files in self.others.items():
            if student not in have:
                names = ", ".join(entry.parts[-1] for _, entry in files[:3])
                self.add(*files[0], status=f"no notebook, but {clean_name(names)}")
        return self.submissions


def _latest_first(submissions: Sequence[Submission]) -> list[Submission]:
    """By student, the latest of each chapter first; it alone counts, both name each other.

    A file that cannot be read replaces nothing and is replaced by nothing.
    """
    groups: dict[tuple[str, int | str], list[Submission]] = {}
    for submission in submissions:
        chapter = submission.chapter if submission.chapter is not None else submission.file
        groups.setdefault((submission.student, chapter), []).append(submission)
    found: list[Submission] = []
    for group in groups.values():
        last, *earlier = sorted(group, key=lambda s: (s.rank, s.time, s.file), reverse=True)
        found.append(replace(last, superseded=tuple(s.file for s in earlier)))
        found += [replace(s, replaced=True) for s in earlier]
    return sorted(
        found, key=lambda s: (s.student.casefold(), s.student, s.chapter or 0, s.replaced)
    )
