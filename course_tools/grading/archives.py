"""Files of students in folders and zip files, read with limits (in the process of `reader_child`).

Nothing here trusts a name, a size or a time that came with a file: links are not followed, and
nothing is unpacked to disk. A file that cannot be read becomes a record that says why.
"""

import io
import os
import re
import stat
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from course_tools.grading.platforms import clean_name, seconds
from course_tools.grading.read_notebook import (
    MAX_NOTEBOOK,
    Answer,
    Cell,
    Known,
    NotANotebookError,
    Notebook,
    read_notebook,
)

#: Most bytes of a zip file inside another one or in a folder, and of all that it unpacks to.
MAX_INNER_ZIP, MAX_INNER_UNPACKED = 100 * 10**6, 200 * 10**6
#: Most entries of a folder or zip file, and of a zip file that a student handed in.
MAX_ENTRIES, MAX_INNER_ENTRIES = 50_000, 2_000
#: Most bytes that one compressed byte of a larger entry may become, most zip files in each other.
MAX_RATIO, MAX_NESTING = 300, 3
_SMALL, _MAX_PARTS, _MAX_PATH = 10**6, 30, 2_000
#: A notebook by its name: browsers add endings. What may be one that was saved under another name.
_NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)
_PERHAPS = re.compile(r"\.(txt|json)$", re.IGNORECASE)
_TIMESTAMP = "timestamp.txt"


@dataclass(frozen=True)
class Listing:
    """What a source holds, by names.

    Attributes:
        files: path -> its time, seconds since 1970, as the folder or archive tells it.
        problems: what was left out, and why.
    """

    files: dict[str, float]
    problems: list[str]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Listing":
        """As the child sent it."""
        files = {str(name): float(when) for name, when in data["files"].items()}
        return cls(files, [clean_name(str(problem), 300) for problem in data["problems"]])


@dataclass(frozen=True)
class Record:
    """What one file holds.

    Attributes:
        source: which of the files that were asked for it is, or lies in.
        file: its path, and the path inside each archive that it lies in.
        kind: "notebook", "time", "other" or "problem".
        status: why it cannot be read; of "time", the seconds since 1970.
        notebook: what was read.
    """

    source: int
    file: str
    kind: str
    status: str = ""
    notebook: Notebook | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Record":
        """As the child sent it.

        Raises:
            TypeError, KeyError, AttributeError: if it is not of that form.
        """
        found = data["notebook"]
        if found is not None:
            cells = [
                Cell(bool(c["is_code"]), str(c["source"]), str(c["exercise"]), str(c["python"]))
                for c in found["cells"]
            ]
            answers = {str(number): _answer(one) for number, one in found["answers"].items()}
            chapter = None if found["chapter"] is None else int(found["chapter"])
            found = Notebook(chapter, str(found["lesson"]), tuple(cells), answers)
        file, status = clean_name(str(data["file"]), 300), clean_name(str(data["status"]), 300)
        return cls(int(data["source"]), file, str(data["kind"]), status, found)


def _answer(data: dict[str, Any]) -> Answer:
    source = None if data["source"] is None else str(data["source"])
    wrong = clean_name(str(data["wrong"]), 300)
    return Answer(source, wrong, bool(data["done"]), int(data["cell"]))


class _UnreadError(Exception):
    """A file that cannot be read; the message says why."""


# --- sources -------------------------------------------------------------------------------------


def open_source(path: Path) -> "Folder | Zip":
    """A folder, a zip file, or a file as a folder of one.

    Raises:
        ValueError: if it is a zip file that cannot be read.
    """
    if path.is_dir():
        return Folder(path)
    if zipfile.is_zipfile(path):
        return Zip(path.open("rb"))
    return Folder(path.parent, only=path.name)


class Folder:
    """Files on disk.

    Args:
        root: the folder.
        only: the one file of it that counts.
    """

    def __init__(self, root: Path, only: str = "") -> None:
        self.root, self.only = root, only

    def listing(self) -> dict[str, Any]:
        """See `Listing`."""
        problems: list[str] = []
        files: dict[str, float] = {}
        for path in self._files(problems):
            if len(files) >= MAX_ENTRIES:
                problems.append(f"more than {MAX_ENTRIES} files: the rest was left out")
                break
            files[path.relative_to(self.root).as_posix()] = path.lstat().st_mtime
        return {"files": files, "problems": problems}

    def _files(self, problems: list[str]) -> Iterator[Path]:
        if self.only:
            yield self.root / self.only
            return
        for where, folders, names in os.walk(self.root, followlinks=False):
            here = Path(where)
            inside = here.relative_to(self.root)
            for name in [*folders, *names]:
                if (here / name).is_symlink():
                    problems.append(f"{(inside / name).as_posix()}: a link, not followed")
            folders[:] = sorted(
                n for n in folders if not _ignored(n) and not (here / n).is_symlink()
            )
            if len(inside.parts) >= _MAX_PARTS:
                problems.append(f"{inside.as_posix()}: too many folders inside each other")
                folders.clear()
            yield from (
                here / n for n in sorted(names) if not _ignored(n) and not (here / n).is_symlink()
            )

    def open(self, name: str) -> "_File":
        """A file of `listing`."""
        path = self.root / name

        def read(most: int) -> bytes:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                with open(os.open(path, flags), "rb") as stream:  # noqa: PTH123 (with flags)
                    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                        raise _UnreadError("not an ordinary file")
                    return stream.read(most)
            except OSError as error:
                raise _UnreadError(f"cannot be read ({type(error).__name__})") from None

        return _File(name, path.lstat().st_size, read)

    def text(self, name: str) -> str:
        """A file of the platform's own."""
        return _text(self.open(name))


class Zip:
    """Files in a zip file.

    Args:
        stream: of its bytes.
        most: entries that are read.
        inner: whether a student handed it in.

    Raises:
        ValueError: if it cannot be read.
    """

    def __init__(self, stream: BinaryIO, most: int = MAX_ENTRIES, *, inner: bool = False) -> None:
        try:
            self.file = zipfile.ZipFile(stream)
        except Exception:  # whatever a damaged file makes of zipfile
            raise ValueError("a damaged zip file") from None
        self.left = MAX_INNER_UNPACKED if inner else float("inf")
        self.problems: list[str] = []
        self.entries: dict[str, zipfile.ZipInfo] = {}
        infos = self.file.infolist()
        if len(infos) > most:
            self.problems.append(f"{len(infos)} entries, at most {most} are read")
        for info in infos[:most]:
            self._add(info)

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = _zip_name(info)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if info.is_dir() or not parts or any(_ignored(part) for part in parts if part != ".."):
            return
        if ".." in parts or name.startswith("/") or re.match(r"[A-Za-z]:", name):
            self.problems.append(f"{name}: a path that leaves the zip file, left out")
        elif stat.S_ISLNK(info.external_attr >> 16):
            self.problems.append(f"{name}: a link, not followed")
        elif len(parts) > _MAX_PARTS or len(name) > _MAX_PATH:
            self.problems.append(f"{name[:100]}: too many folders inside each other, left out")
        else:
            self.entries["/".join(parts)] = info

    def listing(self) -> dict[str, Any]:
        """See `Listing`."""
        files = {name: _zip_time(info) for name, info in self.entries.items()}
        return {"files": files, "problems": self.problems}

    def open(self, name: str) -> "_File":
        """A file of `listing`."""
        info = self.entries[name]

        def read(most: int) -> bytes:
            if info.flag_bits & 1:
                raise _UnreadError("it is encrypted")
            if info.file_size > max(_SMALL, MAX_RATIO * info.compress_size):
                raise _UnreadError("it unpacks to far more than it is (a zip bomb)")
            if min(most, info.file_size) > self.left:
                raise _UnreadError("its zip file unpacks to too much in all")
            try:
                with self.file.open(info) as stream:
                    data = stream.read(most)
            except MemoryError:
                raise
            except Exception as error:  # whatever a damaged file makes of its decompressor
                raise _UnreadError(f"damaged in its zip file ({type(error).__name__})") from None
            self.left -= len(data)
            return data

        return _File(name, info.file_size, read)

    def text(self, name: str) -> str:
        """A file of the platform's own."""
        return _text(self.open(name))


@dataclass(frozen=True)
class _File:
    """A file somewhere; `read` gives at most so many bytes and raises `_UnreadError`."""

    name: str
    size: int
    read: Callable[[int], bytes]


def _text(file: _File) -> str:
    try:
        return file.read(MAX_NOTEBOOK).decode("utf-8", "replace")
    except _UnreadError as error:
        raise ValueError(str(error)) from None


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of an entry: many programs write UTF-8 without saying so."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):  # else an old code page, which Python has read
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _zip_time(info: zipfile.ZipInfo) -> float:
    try:
        return time.mktime((*info.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return 0.0


def _ignored(name: str) -> bool:
    """Files of systems: checkpoints of Jupyter, resource forks of macOS."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


# --- records -------------------------------------------------------------------------------------


def read_files(source: Folder | Zip, names: Sequence[str], known: Known) -> list[dict[str, Any]]:
    """What the files of one student hold, as `Record.from_json` reads it."""
    return [
        asdict(replace(record, source=i))
        for i, name in enumerate(names)
        for record in _read(source.open(name), name, known, 0)
    ]


def _read(file: _File, path: str, known: Known, depth: int) -> Iterator[Record]:
    name = path.rpartition("/")[2]
    try:
        if name.lower().endswith(".zip"):
            yield from _unpacked(file, path, known, depth)
        elif name == _TIMESTAMP:
            yield Record(0, path, "time", str(seconds(file.read(100).decode("utf-8", "replace"))))
        elif _NOTEBOOK.search(name):
            yield Record(0, path, "notebook", "", _notebook(file, known))
        elif _PERHAPS.search(name):
            with suppress(NotANotebookError):
                yield Record(0, path, "notebook", "", _notebook(file, known))
                return
            yield Record(0, path, "other")
        else:
            yield Record(0, path, "other")
    except (_UnreadError, NotANotebookError) as error:
        yield Record(0, path, "problem", str(error))
    except MemoryError:
        yield Record(0, path, "problem", "it needs too much memory to read")


def _notebook(file: _File, known: Known) -> Notebook:
    data = file.read(MAX_NOTEBOOK + 1)
    if len(data) > MAX_NOTEBOOK:
        raise _UnreadError(
            f"too large: more than {MAX_NOTEBOOK // 10**6} MB; clear the outputs (Edit, Clear "
            "Outputs of All Cells), save and hand in again"
        )
    return read_notebook(data, known)


def _unpacked(file: _File, path: str, known: Known, depth: int) -> Iterator[Record]:
    if depth >= MAX_NESTING:
        raise _UnreadError("too many zip files inside each other")
    if file.size > MAX_INNER_ZIP:
        raise _UnreadError(f"too large: {file.size / 1e6:.0f} MB")
    try:
        archive = Zip(io.BytesIO(file.read(MAX_INNER_ZIP)), MAX_INNER_ENTRIES, inner=True)
    except ValueError as error:
        raise _UnreadError(str(error)) from None
    if archive.problems:
        yield Record(0, path, "problem", "; ".join(archive.problems[:3]))
    for name in archive.entries:
        yield from _read(archive.open(name), f"{path}/{name}", known, depth + 1)
