"""Who handed in a file: names of folders and files as learning platforms make them.

Canvas, Moodle, Gradescope and nbgrader each say it in their own way; plain files say it by their
name. Names are cleaned, and none may pass for another one.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

_MAX_NAME = 120
#: Most letters of Gradescope's file.
_MAX_METADATA = 4_000_000


@dataclass(frozen=True)
class Who:
    """A student, as far as a platform tells.

    Attributes:
        student: unique in the tables.
        name: for people, if known.
        ids: numbers in other systems.
        late: whether the platform says so.
        rank: attempt and copy, as Canvas counts them.
        time: when it was handed in, if the platform tells.
        known: whether a platform names the student, not just a file.
    """

    student: str
    name: str = ""
    ids: Mapping[str, str] = field(default_factory=dict)
    late: bool = False
    rank: tuple[int, int] = (0, 0)
    time: float | None = None
    known: bool = True


_CANVAS = re.compile(
    r"(?P<name>[^\W\d_][^\W_]*(?:_(?!LATE_)[^\W\d_]+){0,3}?)_(?P<late>LATE_)?"
    r"(?P<id>\d{2,})_(?P<attempt>\d{2,})_(?P<file>.+)"
)
#: Words that begin names of files, not of students: hw_2026_05_lee.ipynb.
_NOT_NAMES = {"hw", "homework", "week", "chapter", "ch", "ex", "exercise", "exercises", "copy"}
_NOT_NAMES |= {"assignment", "notebook", "lab", "final", "solution", "solutions", "submission"}
_MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext).*")
_GRADESCOPE = re.compile(r"submission_(?P<id>\d+)")
_COUNT = re.compile(r"-(\d{1,3})(?=\.\w+$)")


def who_handed_in(
    parts: tuple[str, ...], submitters: Mapping[tuple[str, ...], Sequence[Who]], own: re.Pattern
) -> Sequence[Who]:
    """Who handed in a file: the outermost name counts, for students choose the inner ones."""
    for i, part in enumerate(parts):
        if (match := _MOODLE.fullmatch(part)) is not None:
            name, number = clean_name(match["name"]), match["id"]
            return [Who(f"{unique(match['name'])}_{number}", name, {"moodle": number})]
        if (match := _GRADESCOPE.fullmatch(part)) is not None and i + 1 < len(parts):
            nobody = Who(part, "", {"gradescope": match["id"]})
            return submitters.get(parts[: i + 1]) or [nobody]
        if part == "submitted" and len(parts) - i >= 4:
            return [Who(unique(parts[i + 1]), "", {"nbgrader": clean_name(parts[i + 1])})]
        if (match := _CANVAS.fullmatch(part)) is not None and _is_canvas(match):
            counted = _COUNT.search(part)
            rank = (int(match["attempt"][:18]), int(counted[1]) if counted else 0)
            student, ids = f"{unique(match['name'])}_{match['id']}", {"canvas": match["id"]}
            return [Who(student, clean_name(match["name"]), ids, bool(match["late"]), rank)]
    *folders, last = parts
    stem = re.sub(r"\.(ipynb(\.txt|\.json)?|zip)$", "", last, flags=re.IGNORECASE)
    folders = [re.sub(r"\.zip$", "", part, flags=re.IGNORECASE) for part in folders]
    if folders and own.search(stem):  # lee/05_kv_cache.ipynb
        return [Who(unique("/".join(folders)), known=False)]
    return [Who(unique("/".join((*folders, stem))), known=False)]


def _is_canvas(match: re.Match[str]) -> bool:
    is_date = re.fullmatch(r"(19|20)\d\d", match["id"]) and len(match["attempt"]) <= 2
    return not is_date and match["name"].split("_")[0].lower() not in _NOT_NAMES


def gradescope_submitters(text: str, folder: tuple[str, ...]) -> dict[tuple[str, ...], list[Who]]:
    """The submitters by folder, from the file that Gradescope exports beside the folders.

    Args:
        text: of the file: YAML, whose keys Ruby may have written as symbols (":name:").
        folder: where it lies.

    Raises:
        ValueError: if it is too long or no YAML.
    """
    if len(text) > _MAX_METADATA:
        raise ValueError(f"too long: {len(text)} letters")
    try:
        # The loader without types, in Python: the one in C crashes on deep nesting.
        tree = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read as YAML ({type(error).__name__})") from None
    found = {}
    for name, entry in _mapping(tree).items():
        if _GRADESCOPE.fullmatch(name):
            entry = _mapping(entry)
            people = entry.get("submitters")
            persons = [_mapping(one) for one in people] if isinstance(people, list) else []
            when = entry.get("created_at")
            time = seconds(when) if isinstance(when, str) else None
            found[(*folder, name)] = [_submitter(name, one, time) for one in persons if one]
    return found


def _mapping(node: Any) -> dict[str, Any]:
    """A mapping of the file, its keys without the colon of a symbol; {} if it is none."""
    return {k.lstrip(":"): v for k, v in node.items()} if isinstance(node, dict) else {}


def _submitter(folder: str, person: Mapping[str, Any], when: float | None) -> Who:
    facts = {key: value for key, value in person.items() if isinstance(value, str) and value}
    ids = {"gradescope": folder.removeprefix("submission_")}
    ids |= {key: clean_name(facts[key]) for key in ("sid", "email") if key in facts}
    name = facts.get("name", "")
    number = facts.get("sid") or facts.get("email") or folder
    return Who(unique(f"{name}_{number}".strip("_")), clean_name(name), ids, time=when)


def seconds(text: str) -> float:
    """A time such as "2026-11-22 15:58:23.948203 UTC" as seconds since 1970, 0 if unreadable."""
    match = re.match(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)? ?([+-]\d\d:?\d\d)?", text)
    if match is None:
        return 0.0
    try:
        when = datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or ''}")
    except ValueError:
        return 0.0
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def clean_name(text: str) -> str:
    """A name as people may read it: no control characters, nothing that turns the text around."""
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a file system that are not UTF-8
        raw = text.encode("utf-8", "surrogateescape" if _escaped(text) else "replace")
        text = raw.decode("latin-1") if _escaped(text) else raw.decode()
    text = unicodedata.normalize("NFC", text)
    kept = (" " if c.isspace() else c for c in text if c.isspace() or _visible(c))
    text = " ".join("".join(kept).split())
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def _visible(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn")


def _escaped(text: str) -> bool:
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in text)


def unique(text: str) -> str:
    """As `clean_name`, with a mark if something was lost: no name may pass for another one."""
    clean = clean_name(text)
    if clean == unicodedata.normalize("NFC", text).strip() and clean:
        return clean
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{clean}~{mark}"
