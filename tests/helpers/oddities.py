"""Honest notebooks that look odd: what a kernel makes of them is right, so the grader must see it.

Each is the notebook of chapter 2 with right answers, some of them written in another way, or with
cells of the student's own. `python -m tests.helpers.oddities` runs them as IPython does and prints,
as JSON, which exercises their own visible checks call right.
"""

import contextlib
import io
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.made_class import code, filled, number_of, solutions

CHAPTER = 2
MASK = "def causal_mask(n):\n    return np.tri(n, dtype=bool)\n"
WRONG = "def causal_mask(n):\n    return np.ones((n, n), dtype=bool)\n"
CHECK = 'check("2.2", causal_mask)'
HELPER = "import numpy as np\ndef low(n):\n    return np.tri(n, dtype=bool)\n"


@dataclass(frozen=True)
class Oddity:
    """An honest notebook.

    Attributes:
        about: what is odd.
        answers: sources by exercise, in place of our own.
        first: cells before all others.
        behind: cells behind the check of 2.2.
        last: cells behind all others.
        without: cells that hold one of these are deleted.
    """

    about: str
    answers: Mapping[str, str] = field(default_factory=dict)
    first: Sequence[str] = ()
    behind: Sequence[str] = ()
    last: Sequence[str] = ()
    without: Sequence[str] = ()

    def notebook(self) -> dict[str, Any]:
        """The whole of it."""
        made = filled(CHAPTER, solutions(CHAPTER) | dict(self.answers))
        cells = list(map(code, self.first))
        for cell in made["cells"]:
            source = "".join(cell["source"])
            if number_of(cell) or not any(words in source for words in self.without):
                cells.append(cell)
            if source.startswith(CHECK):
                cells += map(code, self.behind)
        return made | {"cells": [*cells, *map(code, self.last)]}


def mask(about: str, source: str, **more: Sequence[str]) -> Oddity:
    """An odd way to write exercise 2.2."""
    return Oddity(about, {"2.2": source}, **more)


_NAMES = [
    Oddity("a helper of one name in two exercises", {
        "2.2": "def build(n):\n    return np.tri(n, dtype=bool)\n"
               "def causal_mask(n):\n    return build(n)",
        "2.5": "def build(mask):\n    return mask + 0 > 0\ndef open_row(mask, row):\n"
               "    opened = build(mask)\n    opened[..., row, :] = True\n    return opened"}),
    Oddity("a variable of one name in two exercises", {
        "2.2": "offset = 0\ndef causal_mask(n):\n    return np.tri(n, k=offset, dtype=bool)",
        "2.3": "offset = 1\ndef causal_mask_at(q_pos, k_pos):\n"
               "    q, k = np.asarray(q_pos), np.asarray(k_pos)\n"
               "    return k[None, :] < q[:, None] + offset"}),
    mask("the answer's name is used for something else after its check", MASK,
         behind=["causal_mask = causal_mask(5)\nprint(causal_mask)"]),
    mask("a wrong variant is tried out after the check", MASK, behind=[WRONG]),
    mask("a wrong draft stands above the answer", WRONG + MASK),
    mask("a draft in a cell of its own", MASK, first=["import numpy as np\n" + WRONG]),
    mask("a helper is deleted when it has been used",
         HELPER + "causal_mask = lambda n, low=low: low(n)\ndel low"),
    mask("the answer has another name, and the check is told so",
         HELPER, without=[CHECK], last=['check("2.2", low)']),
    mask("the answer is found by its name in globals()",
         "globals()['causal_mask'] = lambda n: np.tri(n, dtype=bool)"),
    mask("exec", "exec('def causal_mask(n): return np.tri(n, dtype=bool)')"),
]  # fmt: skip

_STATE = [
    mask("calls are counted in a global", "calls = 0\ndef causal_mask(n):\n    global calls\n"
         "    calls += 1\n    return np.tri(n, dtype=bool)"),
    mask("a plain call sets things up", "SETTINGS = {}\ndef setup(**values):\n"
         "    SETTINGS.update(values)\nsetup(k=0)\ndef causal_mask(n):\n"
         "    return np.tri(n, k=SETTINGS['k'], dtype=bool)"),
    mask("a list is filled by a function", "TABLE = []\ndef add(k):\n    TABLE.append(k)\n"
         "for k in range(3):\n    add(k)\ndef causal_mask(n):\n"
         "    return np.tri(n, k=TABLE[0], dtype=bool)"),
    mask("setattr on a class", "class Maker:\n    pass\n"
         "setattr(Maker, 'make', lambda self, n: np.tri(n, dtype=bool))\n"
         "def causal_mask(n):\n    return Maker().make(n)"),
    mask("a decorator that adds a method", "def add_to(kind):\n    def add(function):\n"
         "        setattr(kind, function.__name__, function)\n        return function\n"
         "    return add\nclass Maker:\n    pass\n@add_to(Maker)\ndef make(self, n):\n"
         "    return np.tri(n, dtype=bool)\ndef causal_mask(n):\n    return Maker().make(n)"),
    mask("singledispatch", "from functools import singledispatch\n@singledispatch\n"
         "def causal_mask(n):\n    raise TypeError\n@causal_mask.register\ndef _(n: int):\n"
         "    return np.tri(n, dtype=bool)"),
    mask("a memo", "MEMO = {}\ndef causal_mask(n):\n    if n not in MEMO:\n"
         "        MEMO[n] = np.tri(n, dtype=bool)\n    return MEMO[n].copy()\ncausal_mask(3)"),
    mask("functools.cache", "import functools\n@functools.cache\ndef low(n):\n"
         "    return np.tri(n, dtype=bool)\ndef causal_mask(n):\n    return low(n).copy()"),
    mask("another default dtype", MASK, first=[
        "import torch\ntorch.set_default_dtype(torch.float64)"]),
    mask("print options, warnings, seeds", MASK, first=[
        "import numpy as np, warnings, random\nnp.set_printoptions(precision=3)\n"
        "warnings.simplefilter('ignore')\nrandom.seed(1)\nnp.random.seed(1)"]),
    Oddity("a value is changed in place: fill_diagonal", {
        "2.1": "MATRIX = np.tri(5, k=-1)\nnp.fill_diagonal(MATRIX, 1)"}),
    Oddity("a value is changed in place: tril_", {
        "2.1": "import torch\nMATRIX = torch.ones(5, 5)\nMATRIX.tril_()"}),
    Oddity("a value is filled by a function", {
        "2.1": "MATRIX = np.zeros((5, 5))\ndef fill(matrix):\n    matrix += np.tri(5)\n"
               "fill(MATRIX)"}),
    Oddity("a value is written by out=", {
        "2.1": "MATRIX = np.zeros((5, 5))\nnp.multiply(np.tri(5), 1, out=MATRIX)"}),
]  # fmt: skip
_LANGUAGE = [
    mask("@torch.compile", "@torch.compile\ndef causal_mask(n):\n"
         "    return torch.ones(n, n, dtype=torch.bool).tril()"),
    mask("@torch.compile(...)", "@torch.compile(dynamic=True)\ndef causal_mask(n):\n"
         "    return torch.ones(n, n, dtype=torch.bool).tril()"),
    mask("an object that can be called", "class Mask:\n    def __call__(self, n):\n"
         "        return np.tri(n, dtype=bool)\ncausal_mask = Mask()"),
    mask("functools.partial", "from functools import partial\n"
         "causal_mask = partial(np.tri, dtype=bool)"),
    mask("from __future__", "from __future__ import annotations\n"
         "def causal_mask(n: Count) -> Matrix:\n    return np.tri(n, dtype=bool)"),
    mask("from __future__ in an earlier cell", "def causal_mask(n: Count) -> Matrix:\n"
         "    return np.tri(n, dtype=bool)", first=["from __future__ import annotations"]),
    mask("match", "def causal_mask(n):\n    match (n, 0):\n        case (size, k):\n"
         "            return np.tri(size, k=k, dtype=bool)"),
    mask("match at the top of the cell", "match (0, bool):\n    case (k, dtype):\n        pass\n"
         "def causal_mask(n):\n    return np.tri(n, k=k, dtype=dtype)"),
    mask("await at the top", "import asyncio\nasync def offset():\n    await asyncio.sleep(0)\n"
         "    return 0\nK = await offset()\ndef causal_mask(n):\n"
         "    return np.tri(n, k=K, dtype=bool)"),
    mask("star import, walrus", "from numpy import *\nprint(low := tri(2))\n"
         "causal_mask = lambda n: tri(n, dtype=bool)"),
]  # fmt: skip
_MAGICS = [
    Oddity("%%writefile and import", {
        "2.2": "from my_masks import low\ndef causal_mask(n):\n    return low(n)"},
        first=["%%writefile my_masks.py\n" + HELPER]),
    Oddity("%%writefile and %run", {"2.2": "causal_mask = low"}, first=[
        "%%writefile more_masks.py\n" + HELPER, "%run more_masks.py"]),
    Oddity("a file that an earlier cell wrote", {
        "2.2": "LOW = np.load('low.npy')\ndef causal_mask(n):\n"
               "    return np.tri(n, k=int(LOW[0]), dtype=bool)"},
        first=["import numpy as np\nnp.save('low.npy', np.zeros(3))"]),
    mask("%%time", "%%time\n" + MASK),
    mask("%%capture", "%%capture output\n" + MASK),
    mask("%time and %timeit", MASK + "%time causal_mask(4)\n%timeit -n 2 -r 1 causal_mask(4)"),
    mask("%matplotlib, %load_ext, the shell", MASK, first=[
        "%matplotlib inline\n%load_ext autoreload\n%autoreload 2\n!echo hello\nfiles = !ls\n%pwd",
        "%%bash\necho hello"]),
    mask("questions", MASK, first=["import numpy as np\nnp.tril?"]),
]  # fmt: skip
_CELLS = [
    mask("display", "display('my mask')\n" + MASK + "display(causal_mask(3))"),
    mask("display of IPython", MASK, first=[
        "from IPython.display import HTML, display\ndisplay(HTML('<b>hello</b>'))"]),
    mask("prints, also of emoji", "print('\N{SLIGHTLY SMILING FACE}' * 3)\n" + MASK),
    mask("cells that fail", MASK, first=["1 / 0", "undefined_name", "def broken(:\n    pass"],
         last=["raise SystemExit", "assert False"]),
    mask("a cell that never ends", MASK, last=["while True:\n    pass"]),
    mask("a cell that never ends, above everything", "SETTINGS = {}\nSETTINGS.update(k=0)\n"
         "def causal_mask(n):\n    return np.tri(n, k=SETTINGS['k'], dtype=bool)",
         first=["while True:\n    pass"]),
    mask("the interpreter is ended, at the end", MASK, last=["import os\nos._exit(0)"]),
    mask("input", MASK, first=["name = input('your name')"]),
    mask("a thread that stays", MASK, first=[
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()"]),
    mask("the course's library in a stray cell", MASK, first=[
        "from course_lib.masks import causal\nprint(causal().matrix(3, 3))"]),
    mask("the check cells are gone", MASK, without=["check("]),
    mask("the imports are gone", MASK, without=["import numpy as np"]),
    mask("the set-up is gone", MASK, without=["install_course_lib"]),
    mask("answer and check in one cell", MASK + CHECK, without=[CHECK]),
    mask("the check is called for a draft, then for the answer", WRONG + CHECK + "\n" + MASK),
    mask("the answer stands in the first cell", "# see above", first=[
        "import numpy as np\n" + MASK]),
]  # fmt: skip
ODDITIES = [*_NAMES, *_STATE, *_LANGUAGE, *_MAGICS, *_CELLS]


def called_right(oddity: Oddity) -> None:
    """Run a notebook in this process, as IPython does; print the numbers that its checks accept."""
    from IPython.core.interactiveshell import InteractiveShell

    def enough(*_: object) -> None:  # as somebody would who waits for a cell
        raise KeyboardInterrupt

    shell, out = InteractiveShell.instance(), sys.stdout
    sys.path.insert(0, "")
    signal.signal(signal.SIGALRM, enough)
    for cell in oddity.notebook()["cells"]:
        if cell["cell_type"] != "code":
            continue
        shown = io.StringIO()
        signal.alarm(0 if "check(" in "".join(cell["source"]) else 3)
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            shell.run_cell("".join(cell["source"]), store_history=True)
        signal.alarm(0)
        for report in re.split(r"^(?=\d\.\d )", shown.getvalue(), flags=re.MULTILINE):
            if re.search(r"claims? holds?\.\n$", report) and "\u2717" not in report:
                print(report.split()[0], file=out, flush=True)


if __name__ == "__main__":
    for made in ODDITIES:
        read, write = os.pipe()
        if os.fork() == 0:
            os.dup2(write, 1)
            os.chdir(sys.argv[1])
            called_right(made)
            os._exit(0)
        os.close(write)
        with open(read) as lines:  # noqa: PTH123 (a pipe)
            print(json.dumps([made.about, sorted(set(lines.read().split()))]), flush=True)
        os.wait()
