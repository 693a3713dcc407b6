"""Where the repo is, what it is called and what it contains (used by `course build` and the CLI).

The facts stand once, in `pyproject.toml`: the version, and under `[tool.course]` the published
address and the list of chapters.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_ADDRESS_LINE = re.compile(r'^address = "[^"\n]*"', re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """One entry of `[[tool.course.chapters]]`, a lesson, or of `[[tool.course.more]]`.

    Attributes:
        name: file name without its ending, such as "02_tril_mask" or "02_tril_mask_more".
        title: what the tables call it.
        question: what it answers, in one line.
        minutes: what the class kit plans for it (what a page says is counted: `build.minutes`).
    """

    name: str
    title: str
    question: str
    minutes: int = 0

    @property
    def number(self) -> str:
        """The chapter's number or letter: "2", "A"."""
        return self.name.split("_")[0].lstrip("0")

    @property
    def is_more(self) -> bool:
        """Whether it goes deeper than a lesson: `notebooks/more/02_tril_mask_more.ipynb`."""
        return re.search(r"_more(_\d)?$", self.name) is not None

    @property
    def page(self) -> str:
        """Its path in the repo without the ending: "notebooks/02_tril_mask"."""
        return f"notebooks/{'more/' if self.is_more else ''}{self.name}"

    @property
    def source(self) -> str:
        """The path in the repo of the text that authors edit."""
        return f"notebooks/source/{'more/' if self.is_more else ''}{self.name}.py"


@dataclass(frozen=True)
class Project:
    """The facts of one working copy.

    Attributes:
        root: the folder of `pyproject.toml`.
        version: version of the package.
        address: where the student tree is published, https://github.com/OWNER/NAME.
        chapters: all lessons that have a source text, in order.
        more: what goes deeper than a lesson, in the order of the lessons.
    """

    root: Path
    version: str
    address: str
    chapters: tuple[Chapter, ...]
    more: tuple[Chapter, ...] = ()

    @property
    def notebooks(self) -> tuple[Chapter, ...]:
        """Each lesson, and behind it what goes deeper."""
        return tuple(n for lesson in self.chapters for n in (lesson, *self.deeper(lesson)))

    def deeper(self, lesson: Chapter) -> tuple[Chapter, ...]:
        """What goes deeper than a lesson."""
        return tuple(more for more in self.more if more.number == lesson.number)

    def lesson(self, more: Chapter) -> Chapter:
        """The lesson that a notebook goes deeper than."""
        return next(lesson for lesson in self.chapters if lesson.number == more.number)

    @property
    def tag(self) -> str:
        """The tag that badges and setup cells point at."""
        return f"v{self.version}"

    @property
    def package_url(self) -> str:
        """What `pip install` gets on Colab."""
        return f"{self.address}/archive/refs/tags/{self.tag}.zip"

    def colab_url(self, path: str) -> str:
        """The Colab page of a notebook, given by its path in the repo."""
        owner_and_name = urlsplit(self.address).path.strip("/")
        return f"https://colab.research.google.com/github/{owner_and_name}/blob/{self.tag}/{path}"


def load_project(start: Path | None = None) -> Project:
    """The project that contains the folder `start` (the current folder if not given).

    Raises:
        FileNotFoundError: if no folder above holds the course's `pyproject.toml`.
    """
    here = (start or Path.cwd()).resolve()
    for root in (here, *here.parents):
        file = root / "pyproject.toml"
        facts = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
        course = facts.get("tool", {}).get("course")
        if course is not None:
            return Project(
                root=root,
                version=facts["project"]["version"],
                address=course["address"].rstrip("/"),
                chapters=_written(root, course["chapters"]),
                more=_written(root, course.get("more", ())),
            )
    raise FileNotFoundError(
        f"no course found: expected a pyproject.toml with [tool.course] in {here} or above"
    )


def configure_address(project: Project, address: str) -> None:
    """Set the published address, in the one place where it stands.

    Args:
        project: the working copy.
        address: https://github.com/OWNER/NAME.

    Raises:
        ValueError: if the address is not of that form.
    """
    parts = urlsplit(address.rstrip("/"))
    pieces = parts.path.strip("/").split("/")
    plain = all(re.fullmatch(r"[\w.-]+", piece) for piece in pieces)
    if parts.scheme != "https" or parts.netloc != "github.com" or len(pieces) != 2 or not plain:
        raise ValueError(f"address: expected https://github.com/OWNER/NAME; got {address!r}")
    file = project.root / "pyproject.toml"
    line = f'address = "https://github.com/{pieces[0]}/{pieces[1]}"'
    text, found = _ADDRESS_LINE.subn(line, file.read_text("utf-8"))
    if found != 1:
        raise ValueError(f"{file}: expected one line starting with 'address = '; found {found}")
    file.write_text(text, "utf-8")


def _written(root: Path, entries: Iterable[dict[str, Any]]) -> tuple[Chapter, ...]:
    """The notebooks of a list that have a source text."""
    return tuple(c for c in (Chapter(**e) for e in entries) if (root / c.source).is_file())
