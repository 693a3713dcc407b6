"""How long a notebook takes to read: prose / 200 + shown code / 8 + predictions, in minutes.

Counted are words of prose (200 a minute), lines of code that are shown (8 a minute) and a minute
for each "**Predict": the reader stops and thinks. Not counted are the setup cell, references,
folded answers, comments, and cells that only draw, which are folded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jupytext
from nbformat import NotebookNode

#: Most minutes of a lesson: a class hour of 50 with five to arrive.
CLASS_HOUR = 45
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 8
#: Tag of a cell that only draws: folded everywhere and not counted.
FIGURE_TAG = "figure"

_WORD = re.compile(r"[A-Za-z0-9][\w'-]*")
_NOT_PROSE = re.compile(r"<details>.*?</details>|\(https?://[^)]*\)|<[^>]+>", re.DOTALL)


@dataclass(frozen=True)
class Reading:
    """What there is to read in a notebook.

    Attributes:
        words: of prose.
        lines: of code that is shown.
        predictions: places that ask for one.
    """

    words: int
    lines: int
    predictions: int

    @property
    def minutes(self) -> int:
        """Rounded to whole minutes."""
        return round(self.words / WORDS_A_MINUTE + self.lines / LINES_A_MINUTE + self.predictions)


def reading(cells: Sequence[NotebookNode]) -> Reading:
    """What there is to read in some cells, in order.

    Args:
        cells: of a notebook or of its source.
    """
    words = lines = predictions = 0
    in_references = False
    for cell in cells:
        if cell.cell_type == "code":
            lines += _lines_of(cell)
            continue
        if heading := re.match(r"(#+) (.*)", cell.source):
            if heading[2].startswith("References"):
                in_references = True
            elif len(heading[1]) <= 2:
                in_references = False
        if not in_references:
            predictions += cell.source.count("**Predict")
            words += len(_WORD.findall(_NOT_PROSE.sub("", cell.source)))
    return Reading(words, lines, predictions)


@cache
def minutes_of(source: Path) -> int:
    """The minutes of a notebook, counted from the text that authors edit.

    Args:
        source: its percent-format file.
    """
    return reading(jupytext.read(source, fmt="py:percent").cells).minutes


def _lines_of(cell: NotebookNode) -> int:
    if {"setup", FIGURE_TAG} & set(cell.metadata.get("tags", [])):
        return 0
    code = (line.strip() for line in cell.source.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in code)
