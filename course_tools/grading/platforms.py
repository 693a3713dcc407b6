"""Who handed in a file: names of folders and files as learning platforms make them.

Canvas, Moodle, Gradescope, Brightspace, Blackboard, GitHub Classroom and nbgrader each say it in
their own way; plain files say it by their name. The outermost name decides: what lies inside a
student's folder or archive was named by that student and speaks for nobody else.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import yaml

#: Gradescope's list of who handed in what, beside the folders.
METADATA = "submission_metadata.yml"
_MAX_NAME, _MAX_METADATA = 120, 4_000_000


@dataclass(frozen=True)
class Who:
    """Who handed in a file, and when, as far as a platform tells.

    Attributes:
        student: unique in the tables.
        name: for people, if known.
        ids: numbers in other systems.
        late: whether the platform says so.
        rank: attempt and copy, as Canvas counts them.
        time: when it was handed in, if the platform tells.
        known: whether a platform names the student, not just a file.
        team: whether it is the name of a team.
    """

    student: str
    name: str = ""
    ids: Mapping[str, str] = field(default_factory=dict)
    late: bool = False
    rank: tuple[int, int] = (0, 0)
    time: float | None = None
    known: bool = True
    team: bool = False


@dataclass
class Group:
    """Files that belong together.

    Attributes:
        people: one student, or all of a team.
        files: path -> who handed in this one.
        is_file: whether it is a file of its own, not a folder.
    """

    people: Sequence[Who]
    files: dict[str, Who] = field(default_factory=dict)
    is_file: bool = False


_CANVAS = re.compile(
    r"(?P<name>[^\d_\W][^_]*(?:_(?!LATE_)[^\d_]+){0,3}?)_(?P<late>LATE_)?"
    r"(?P<id>\d{2,})_(?P<attempt>\d{2,})_(?P<file>.+)"
)
_CANVAS_ANONYMOUS = re.compile(
    r"anon(?:ymous)?_(?:LATE_)?(?P<id>[A-Za-z0-9]{5})_(?:LATE_)?(?P<attempt>\d{2,})_(?P<file>.+)"
)
#: Words that begin names of files, not of students: hw_2026_05_lee.ipynb.
_NOT_NAMES = {"hw", "homework", "week", "chapter", "ch", "ex", "exercise", "exercises", "copy"}
_NOT_NAMES |= {"assignment", "notebook", "lab", "final", "solution", "solutions", "submission"}
_MOODLE = re.compile(
    r"(?P<name>.+?)(?:_(?P<id>\d+))?_assignsubmission_(?:file|onlinetext)(?:_.*)?", re.DOTALL
)
_BRIGHTSPACE = re.compile(
    r"(?P<id>\d+)-\d+ - (?P<name>.+?) - (?P<time>\w{3} \d{1,2}, \d{4} \d{3,4} [AP]M)(?: - .+)?"
)
_BLACKBOARD = re.compile(
    r".+?_(?P<id>[^_]+)_attempt_(?P<time>\d{4}(?:-\d\d){5})(?:_.+|\.txt)", re.DOTALL
)
_GRADESCOPE = re.compile(r"submission_(?P<id>\d+)")
_COUNT = re.compile(r"-(\d{1,3})(?=\.\w+$)")
_ENDING = re.compile(r"\.(ipynb(\.txt|\.json)?|zip|json|txt)$", re.IGNORECASE)


def by_owner(
    paths: Iterable[str], root: str, submitters: Mapping[str, Any], *, teams: bool = False
) -> list[Group]:
    """Files by who handed them in.

    Args:
        paths: relative to what was downloaded.
        root: its own name.
        submitters: what Gradescope's file says, by the path of each folder.
        teams: whether Moodle's names are those of teams.
    """
    groups: dict[str, Group] = {}
    for path in paths:
        parts = path.split("/")
        people = _owners(parts, root, submitters)
        if teams:
            people = [_team(who) for who in people]
        key = "\0".join(who.student for who in people)
        group = groups.setdefault(key, Group(people, is_file=len(parts) == 1))
        group.files[path] = people[0]
    return list(groups.values())


def looks_downloaded(paths: Iterable[str]) -> bool:
    """Whether folders inside the outermost ones are named as platforms name those of students."""
    inner = {path.split("/")[1] for path in paths if path.count("/")}
    return METADATA in inner or any(_by_platform(name) is not None for name in inner)


def _owners(parts: Sequence[str], root: str, submitters: Mapping[str, Any]) -> list[Who]:
    for depth in (1, 2):  # an export may have a folder around it
        folder = "/".join(parts[:depth])
        if len(parts) > depth and folder in submitters:
            return _gradescope(parts[depth - 1], submitters[folder])
    if len(parts) > 1 and _GRADESCOPE.fullmatch(parts[0]):
        return _gradescope(parts[0], {})
    if root == "submitted" and len(parts) > 2:
        return [_nbgrader(parts[0])]
    if parts[0] == "submitted" and len(parts) > 3:
        return [_nbgrader(parts[1])]
    found = _by_platform(parts[0])
    if found is not None:
        return [found]
    student = parts[0] if len(parts) > 1 else _ENDING.sub("", parts[0])
    prefix = root.removesuffix("-submissions") + "-"  # as GitHub Classroom clones a class
    if root.endswith("-submissions") and len(parts) > 1 and student.startswith(prefix):
        user = student.removeprefix(prefix)
        return [Who(unique(user), "", {"github": clean_name(user)})]
    return [Who(unique(student), known=False)]


def _by_platform(part: str) -> Who | None:
    """Who a name is, if a platform made it."""
    if (match := _MOODLE.fullmatch(part)) is not None:
        name, number = clean_name(match["name"]), match["id"]
        if number is None:  # only teams lack it, and of them only those of people without one
            return Who(unique(match["name"]), name, {}, team=True)
        return Who(f"{name}_{number}", name, {"moodle": number})
    if (match := _BRIGHTSPACE.fullmatch(part)) is not None:
        name, number = clean_name(match["name"]), match["id"]
        when = _local(match["time"], "%b %d, %Y %I%M %p")
        return Who(f"{name}_{number}", name, {"brightspace": number}, time=when)
    if (match := _BLACKBOARD.fullmatch(part)) is not None:
        user, when = match["id"], _local(match["time"], "%Y-%m-%d-%H-%M-%S")
        return Who(unique(user), "", {"blackboard": clean_name(user)}, time=when)
    late = "_LATE_" in part
    if (match := _CANVAS_ANONYMOUS.fullmatch(part)) is not None:
        ids = {"canvas_anonymous": match["id"]}
        return Who(f"anonymous_{match['id']}", "", ids, late, _rank(part, match["attempt"]))
    if (match := _CANVAS.fullmatch(part)) is not None and _is_canvas(match):
        name, number = clean_name(match["name"]), match["id"]
        rank = _rank(part, match["attempt"])
        return Who(f"{name}_{number}", name, {"canvas": number}, bool(match["late"]), rank)
    return None


def _rank(file: str, attempt: str) -> tuple[int, int]:
    counted = _COUNT.search(file)
    return int(attempt[:18]), int(counted[1]) if counted else 0


def _is_canvas(match: re.Match[str]) -> bool:
    is_date = re.fullmatch(r"(19|20)\d\d", match["id"]) and len(match["attempt"]) <= 2
    return not is_date and match["name"].split("_")[0].lower() not in _NOT_NAMES


def _nbgrader(student: str) -> Who:
    return Who(unique(student), "", {"nbgrader": clean_name(student)})


def _team(who: Who) -> Who:
    """A team that Moodle names as it names a student; its number is not a participant's."""
    return replace(who, ids={k: v for k, v in who.ids.items() if k != "moodle"}, team=True)


def _local(text: str, form: str) -> float | None:
    try:
        return datetime.strptime(text, form).timestamp()
    except (ValueError, OverflowError):
        return None


# --- Gradescope ----------------------------------------------------------------------------------


def gradescope_submitters(text: str) -> dict[str, Any]:
    """What the file says that Gradescope exports beside the folders (in the limited process).

    Args:
        text: of the file: YAML, whose keys Ruby may have written as symbols (":name:").

    Returns:
        Folder -> {"time": seconds since 1970 or None, "people": [{"name", "sid", "email"}]}.

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
            people, when = entry.get("submitters"), entry.get("created_at")
            persons = [_mapping(one) for one in people] if isinstance(people, list) else []
            facts = [{k: v for k, v in one.items() if isinstance(v, str)} for one in persons]
            time = seconds(when) if isinstance(when, str) else None
            found[name] = {"time": time, "people": [one for one in facts if one]}
    return found


def _mapping(node: Any) -> dict[str, Any]:
    """A mapping of the file, its keys without the colon of a symbol; {} if it is none."""
    return {k.lstrip(":"): v for k, v in node.items()} if isinstance(node, dict) else {}


def _gradescope(folder: str, entry: Mapping[str, Any]) -> list[Who]:
    when, people = entry.get("time"), []
    for person in entry.get("people", ()):
        ids = {"gradescope": folder.removeprefix("submission_")}
        ids |= {key: clean_name(person[key]) for key in ("sid", "email") if person.get(key)}
        name = person.get("name", "")
        number = person.get("sid") or person.get("email") or folder
        student = unique(f"{name}_{number}".strip("_"))
        people.append(Who(student, clean_name(name), ids, time=when))
    nobody = Who(folder, "", {"gradescope": folder.removeprefix("submission_")}, time=when)
    return people or [nobody]


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


# --- names ---------------------------------------------------------------------------------------


def clean_name(text: str, most: int = _MAX_NAME) -> str:
    """A name as people may read it: no control characters, nothing that turns the text around."""
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a file system that are not UTF-8
        raw = text.encode("utf-8", "surrogateescape" if _escaped(text) else "replace")
        text = raw.decode("latin-1") if _escaped(text) else raw.decode()
    text = unicodedata.normalize("NFC", text)
    kept = (" " if c.isspace() else c for c in text if c.isspace() or _visible(c))
    text = " ".join("".join(kept).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _visible(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn")


def _escaped(text: str) -> bool:
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in text)


def unique(text: str) -> str:
    """As `clean_name`, with a mark if something was lost: no name may pass for another one."""
    clean = clean_name(text)
    if clean == unicodedata.normalize("NFC", text) and clean:
        return clean
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{clean}~{mark}"
