"""A made class: about thirty notebooks, good, wrong and odd, for the tests of the grader.

`made_class` gives them as bytes under the names that a platform would give them; `write` lays
them out. Hostile ones are in `attacks.py`. By hand: `python -m tests.helpers.made_class FOLDER`.
"""

import copy
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_tools.grading.extract_answer import read_program
from tests.helpers.exercise_bank import ROOT, bank

STEMS = {2: "02_tril_mask", 5: "05_kv_cache"}


@dataclass(frozen=True)
class Made:
    """One file of the class.

    Attributes:
        file: its name, as Canvas gives it.
        data: its bytes.
        about: what is odd about it.
        right: numbers of the exercises that earn full marks; None where nothing is graded.
        status: a part of the status of what is not graded.
        thoughts: misconceptions that must be named, by exercise.
    """

    file: str
    data: bytes
    about: str
    right: frozenset[str] | None
    status: str = ""
    thoughts: Mapping[str, str] = field(default_factory=dict)


# --- answers as text -----------------------------------------------------------------------------


def text_of(answer: object, name: str) -> str:
    """Source that defines an answer of the bank under a name."""
    if inspect.isfunction(answer) or inspect.isclass(answer):
        module = Path(inspect.getsourcefile(answer)).read_text("utf-8")
        source = read_program([module]).answer(answer.__name__)
        assert source is not None, answer
        same = answer.__name__ == name
        return source if same else f"{source}\n{name} = {answer.__name__}\n"
    if isinstance(answer, (np.ndarray, torch.Tensor)):
        library = "np.array" if isinstance(answer, np.ndarray) else "torch.tensor"
        return f"import numpy as np\nimport torch\n{name} = {library}({answer.tolist()})\n"
    return f"{name} = {answer!r}\n"


def solutions(chapter: int) -> dict[str, str]:
    """Our own answers by exercise."""
    return {n: f.source for n, f in bank().exercises.items() if f.chapter == chapter}


def accepted(chapter: int, i: int) -> dict[str, str]:
    """Another right answer to each exercise, counted round."""
    found = {}
    for number, facts in bank().exercises.items():
        if facts.chapter == chapter:
            choices = bank().accepted[number]
            found[number] = text_of(choices[i % len(choices)], facts.answer)
    return found


def mistaken(number: str, i: int = 0) -> tuple[str, str]:
    """A wrong answer as text, and the name of its mistake; of those that stand on their own."""
    choices = bank().misconceptions[number]
    mistake = [m for m in choices if "<" not in getattr(m.answer, "__qualname__", "")][i]
    return text_of(mistake.answer, bank().exercises[number].answer), mistake.name


# --- notebooks -----------------------------------------------------------------------------------


def blank(chapter: int) -> dict[str, Any]:
    """The notebook that students start from."""
    return json.loads((ROOT / "exercises" / f"{STEMS[chapter]}.ipynb").read_text("utf-8"))


def filled(chapter: int, answers: Mapping[str, str]) -> dict[str, Any]:
    """The same with answers in it."""
    notebook = blank(chapter)
    for cell in notebook["cells"]:
        number = number_of(cell)
        if number in answers:
            cell["source"] = answers[number].splitlines(keepends=True)
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["ran\n"]}]
    return notebook


def number_of(cell: Mapping[str, Any]) -> str:
    """The exercise of an answer cell, or ""."""
    name = cell["metadata"].get("nbgrader", {}).get("grade_id", "")
    return name.removeprefix("answer-").replace("-", ".") if name.startswith("answer-") else ""


def code(source: str) -> dict[str, Any]:
    """A student's own cell."""
    return {
        "cell_type": "code", "metadata": {}, "source": source, "outputs": [],
        "execution_count": None,
    }  # fmt: skip


def with_cells(notebook: dict[str, Any], first: Sequence[str] = (), last: Sequence[str] = ()):
    notebook = copy.deepcopy(notebook)
    cells = notebook["cells"]
    notebook["cells"] = [*map(code, first), *cells, *map(code, last)]
    return notebook


def stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """Without any metadata, as some editors save it."""
    notebook = copy.deepcopy(notebook)
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        cell.pop("id", None)
    return notebook


def only_code(notebook: dict[str, Any]) -> dict[str, Any]:
    """Without text and check cells."""
    kept = [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "check(" not in "".join(cell["source"])
    ]
    return {**notebook, "cells": kept}


def backwards(notebook: dict[str, Any]) -> dict[str, Any]:
    return {**notebook, "cells": notebook["cells"][::-1]}


def version_3(notebook: dict[str, Any]) -> dict[str, Any]:
    """The format of 2013."""
    cells = []
    for cell in notebook["cells"]:
        old = {"cell_type": cell["cell_type"], "metadata": {}}
        key = "input" if cell["cell_type"] == "code" else "source"
        cells.append({**old, key: "".join(cell["source"])})
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": cells}]}


def as_file(notebook: Mapping[str, Any], encoding: str = "utf-8") -> bytes:
    return json.dumps(notebook, ensure_ascii=False, indent=1).encode(encoding)


SPLIT = [
    "def lower(rows):\n    return rows >= COLUMNS(rows.size)",
    "import numpy\nCOLUMNS = numpy.arange",
    "def causal_mask(n):\n    return lower(column(n))",
    "def column(n):\n    return numpy.arange(n).reshape(-1, 1)",
]
MAGICS = [
    "%load_ext autoreload\n%autoreload 2\n!pip list\nimport numpy as np\nfiles = !ls\nnp.tril?",
    "%%bash\necho hello",
    "%%time\nimport numpy as np\n\ndef causal_mask(n):\n    return np.tri(n, dtype=bool)",
    "%timeit causal_mask(4)",
]
NOISE = (
    "import sys, warnings\nimport numpy as np\n\ndef causal_mask(n):\n    print('n is', n)\n"
    "    print('debug', file=sys.stderr)\n    warnings.warn('old numpy')\n"
    "    return np.tri(n, dtype=bool)\n"
)


def made_class() -> list[Made]:
    """The class, a new copy at each call."""
    everything = frozenset(solutions(2))
    good = filled(2, accepted(2, 1))
    makers: list[Callable[..., list[Made]]] = [_good, _wrong, _odd, _unreadable]
    return [made for make in makers for made in make(good, everything)]


def _good(good: dict[str, Any], everything: frozenset[str]) -> list[Made]:
    made = [
        Made(_canvas("abelanna", 101), as_file(good), "right", everything),
        Made(
            _canvas("bachbernd", 102), as_file(filled(2, accepted(2, 2))), "torch", everything
        ),
        Made(
            _canvas("castrocai", 103), as_file(filled(2, solutions(2))), "as we do it", everything
        ),
        Made(
            _canvas("diazdora", 104, 5), as_file(filled(5, solutions(5))), "chapter 5",
            frozenset(solutions(5)),
        ),
    ]  # fmt: skip
    late = _canvas("ekeva", 105).replace("_105_", "_LATE_105_")
    return [*made, Made(late, as_file(filled(2, accepted(2, 3))), "late", everything)]


def _wrong(good: dict[str, Any], everything: frozenset[str]) -> list[Made]:
    made = []
    for i, number in enumerate(("2.2", "2.3", "2.4", "2.5", "2.2", "2.1")):
        answer, name = mistaken(number, 1 if i == 4 else 0)
        notebook = filled(2, {**accepted(2, i), number: answer})
        file = _canvas(f"wrong{'abcdef'[i]}", 110 + i)
        right = everything - {number}
        made.append(Made(file, as_file(notebook), f"{name} in {number}", right, "", {number: name}))
    half = {number: text for number, text in accepted(2, 0).items() if number in ("2.1", "2.2")}
    broken = {**accepted(2, 1), "2.3": "def causal_mask_at(q_pos, k_pos:\n    return None"}
    return [
        *made,
        Made(_canvas("halfhanna", 120), as_file(filled(2, half)), "half done", frozenset(half)),
        Made(_canvas("noneniels", 121), as_file(blank(2)), "untouched", frozenset()),
        Made(
            _canvas("brokenbo", 122), as_file(filled(2, broken)), "a syntax error",
            everything - {"2.3"},
        ),
    ]  # fmt: skip


def _odd(good: dict[str, Any], everything: frozenset[str]) -> list[Made]:
    without = {n: text for n, text in accepted(2, 1).items() if n != "2.2"}
    no_mask = {**filled(2, without)}
    no_mask["cells"] = [c for c in no_mask["cells"] if number_of(c) != "2.2"]
    strays = ["1 / 0", "n = undefined_name", "while True:\n    pass", "import os\nos._exit(3)"]
    strays += ["mask = causal_mask(10**9)", "for row in causal_mask(4):\n    print(row)"]
    notebooks = {
        "strippedsam": (stripped(good), "metadata stripped"),
        "bareben": (only_code(stripped(good)), "text and checks deleted"),
        "oddola": (backwards(stripped(good)), "cells in odd order"),
        "splitsara": (with_cells(no_mask, SPLIT), "a function split over cells"),
        "magicmia": (with_cells(no_mask, last=MAGICS), "magics"),
        "noisynina": (filled(2, {**without, "2.2": NOISE}), "prints and warnings"),
        "straystan": (with_cells(good, strays, strays), "stray cells crash and loop"),
        "oldotto": (version_3(good), "format 3"),
        "doublestub": (with_cells(good, last=_stubs()), "untouched stubs pasted below"),
    }
    made = [
        Made(_canvas(name, 130 + i), as_file(notebook), about, everything)
        for i, (name, (notebook, about)) in enumerate(notebooks.items())
    ]
    latin = with_cells(good, ["# größer, déjà vu"])
    first = as_file(filled(2, {"2.2": mistaken("2.2")[0]}))
    return [
        *made,
        Made("lattelea_140_9140_Kopie von Untitled7 (1).ipynb", as_file(latin, "latin-1"),
             "Latin-1, renamed", everything),
        Made(_canvas("utfuli", 141), as_file(latin, "utf-16"), "UTF-16", everything),
        Made(_canvas("bomben", 142), as_file(latin, "utf-8-sig"), "a mark at the start",
             everything),
        Made("twicetom_143_9143_02_tril_mask.ipynb", first, "replaced", None),
        Made("twicetom_143_9243_02_tril_mask-1.ipynb", as_file(good), "the second", everything),
    ]  # fmt: skip


def _unreadable(good: dict[str, Any], everything: frozenset[str]) -> list[Made]:
    whole = as_file(good)
    huge = with_cells(good, ["# " + "x" * 21_000_000])
    page = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>"
    return [
        Made(_canvas("cutcara", 150), whole[: len(whole) // 2], "truncated", None, "cut off"),
        Made(_canvas("hugehugo", 151), as_file(huge), "21 MB", None, "too long"),
        Made(_canvas("pagepia", 152), page, "a web page", None, "web page"),
        Made(_canvas("emptyelif", 153), b"", "empty", None, "empty"),
        Made(_canvas("otherolga", 154), as_file({"cells": [code("x = 1")]}), "another notebook",
             None, "no exercise"),
        Made("pdfpaul_155_9155_report.pdf", b"%PDF-1.7 ...", "a PDF", None, "no notebook"),
    ]  # fmt: skip


def _stubs() -> list[str]:
    return ["".join(cell["source"]) for cell in blank(2)["cells"] if number_of(cell)]


def _canvas(name: str, number: int, chapter: int = 2) -> str:
    return f"{name}_{number}_9{number}_{STEMS[chapter]}.ipynb"


def write(folder: Path, made: Sequence[Made]) -> None:
    """Put files into a folder, as Canvas' download does."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        (folder / one.file).write_bytes(one.data)


if __name__ == "__main__":
    write(Path(sys.argv[1]), made_class())
