"""What a notebook keeps of an explorer: markup that a script of its own makes live.

The markup is the static view, which GitHub, paper and an untrusted notebook show. Where scripts
run, the script upgrades it in place: in a trusted notebook with or without a kernel, on the site,
from a file. It holds all that it needs and asks no one.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from course_lib.explorers.style import HOSTS, colours

#: What views and Python call their events.
EVENT = "course-explorer"

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
#: A string of JSON, with the colon behind it if it is a key.
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(:?)')


def page(script: str, key: str, picture: str, data: Any, states: dict[str, Any]) -> str:
    """An explorer as HTML, live where scripts run.

    Args:
        script: name of its JavaScript file, without the ending.
        key: the same for each view of one explorer, and for no other explorer of a notebook.
        picture: its static view, HTML.
        data: what the script shows, JSON.
        states: first values of the states.
    """
    code, css = bundle(script)
    held = _literal({"key": key, "css": css, "data": data, "states": states})
    return (
        f'<div data-explorer="{key}" data-lm-suppress-shortcuts="true">{picture}</div>\n'
        f"<style>{HOSTS}</style>\n"
        f"<script>(() => {{{code}\nupgrade(render, {held})}})()</script>"
    )


def fingerprint(data: Any) -> str:
    """Eight signs that are the same for the same data."""
    return hashlib.sha256(_literal(data).encode()).hexdigest()[:8]


def bundle(script: str) -> tuple[str, str]:
    """The JavaScript and the CSS of one explorer: every file that it imports, then its own.

    Raises:
        ValueError: if the script has no `render`.
    """
    names = file_names(script)
    code = "\n".join(_trimmed(_IMPORT.sub("", read(f"{name}.js"))) for name in names)
    if "function render(model, host)" not in code:
        raise ValueError(f"{script}.js: expected a function render(model, host)")
    folder = files("course_lib.explorers").joinpath("static")
    sheets = [read(f"{name}.css") for name in names if folder.joinpath(f"{name}.css").is_file()]
    # The colours stand last: the classes of a scale must win over the plain cell.
    return code, _trimmed_css("\n".join([*sheets, colours(code)]))


def file_names(script: str) -> list[str]:
    """The files of an explorer, without their endings, in an order in which each can be used."""
    return list(dict.fromkeys([*_with_imports(script), "view"]))


def read(name: str) -> str:
    """A file of static/."""
    return files("course_lib.explorers").joinpath(f"static/{name}").read_text("utf-8")


def _with_imports(name: str) -> Iterator[str]:
    for imported in _IMPORT.findall(read(f"{name}.js")):
        yield from _with_imports(imported)
    yield name


def _trimmed(code: str) -> str:
    """JavaScript without whole-line comments, exports, indentation and needless line ends."""
    code = re.sub(r"^ *(/\*.*?\*/|//[^\n]*)\n", "", code, flags=re.MULTILINE | re.DOTALL)
    code = re.sub(r"^export (?=function|class|const)", "", code, flags=re.MULTILINE)
    return re.sub(r"(?<=[{;,(\[])\n", "", re.sub(r"\n\s*", "\n", code)).strip()


def _trimmed_css(css: str) -> str:
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.sub(r"\s*([{};,])\s*", r"\1", re.sub(r"\s+", " ", css)).replace(";}", "}").strip()


def _literal(value: Any) -> str:
    """A value as JavaScript that may stand in a page and needs few escapes in a notebook's JSON.

    Numbers lose their last bits, which differ between processors.
    """
    text = json.dumps(_rounded(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text = _STRING.sub(_single_quoted, text)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _single_quoted(match: re.Match[str]) -> str:
    text, colon = match.groups()
    if colon and text.isidentifier():
        return f"{text}:"
    text = text.replace(r"\"", '"').replace("'", r"\'")
    return f"'{text}'{colon}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        value = round(float(f"{value:.10g}"), 12) + 0.0
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    return value
