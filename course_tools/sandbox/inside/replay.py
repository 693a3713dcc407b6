"""Runs the cells of a notebook as its kernel would, up to the check of one exercise.

Nothing is shown. A cell that fails or takes too long is left as it is and the next one runs, as in
a session where somebody works cell by cell. Magics do what they do in IPython as far as it can
matter to an answer; `check` notes what it was given; the rest of `course_lib` is not there.
"""

import __future__

import ast
import asyncio
import builtins
import importlib.abc
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from course_lib.checks.run import time_limit

#: Processor seconds of one cell.
CELL_SECONDS = 10.0
#: What runs code, and what a line or cell magic of this name does with its file.
_RUNS, _WRITES = {"time", "timeit", "capture", "prun"}, {"writefile", "file"}


class AbsentError(Exception):
    """A notebook does not define what it should."""


def answer_at(cells: Sequence[str], number: str, name: str) -> Any:
    """An answer as it stands when its check is reached.

    Args:
        cells: imports, then the cells as Python, magics as calls of `get_ipython()`; the last one
            is that of the check, or the last that has to do with the answer.
        number: of the exercise.
        name: of the answer.

    Returns:
        What the last cell passes to `check`; if it does not get there, what has the name then.

    Raises:
        AbsentError: if nothing has the name.
    """
    given: list[Any] = []

    def check(of: Any = "", *answer: Any, **_: Any) -> None:
        if str(of) == number:
            given[:] = answer

    put_course_lib(check)
    kernel = Kernel()
    for cell in cells:
        given.clear()
        kernel.run(cell)
    if given:
        return given[0]
    if name not in kernel.names:
        raise AbsentError(f"{name} is not in the notebook")
    return kernel.names[name]


class Kernel:
    """The session of a notebook: `names` is what its cells have in common."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self._flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._cells = -1  # the first that it gets are the imports of the exercises
        shell = Shell(self)
        for place in (self.names, vars(builtins)):
            place["get_ipython"] = lambda: shell
            place["display"] = lambda *_, **__: None

    def run(self, source: str) -> None:
        """One cell; whatever it raises ends here."""
        self._cells += 1
        try:
            with time_limit(CELL_SECONDS):
                self.execute(source, f"<your cell {self._cells}>")
        except BaseException:
            pass

    def execute(self, source: str, file: str) -> None:
        """The statements of a source; the value of the last expression is `_`.

        Raises:
            BaseException: what they raise.
        """
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        tree = compile(source, file, "exec", self._flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                for alias in node.names:  # holds in later cells too
                    self._flags |= getattr(__future__, alias.name).compiler_flag
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._evaluate(tree, file, "exec")
        if last is not None:
            value = self._evaluate(ast.Expression(last.value), file, "eval")
            if value is not None:
                self.names["_"] = value

    def _evaluate(self, tree: ast.Module | ast.Expression, file: str, mode: str) -> Any:
        code = compile(tree, file, mode, self._flags, dont_inherit=True)
        value = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            value = asyncio.run(value)
        return value


class Shell:
    """What `get_ipython()` gives: it runs and writes what a magic would, and ignores the rest."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.user_ns = kernel.names

    def run_line_magic(self, name: str, line: str, *_: Any, **__: Any) -> None:
        """%time, %run, %cd, %env."""
        words = line.split()
        if name in _RUNS:
            self._kernel.execute(_without_options(line), f"<%{name}>")
        elif name == "run" and words:
            self._kernel.execute(Path(words[0]).read_text("utf-8"), words[0])
        elif name == "cd" and words:
            os.chdir(words[0])
        elif name in ("env", "set_env") and words:
            key, _separator, value = line.strip().replace(" ", "=", 1).partition("=")
            os.environ[key] = value.strip(" =")

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        """%%time and its like, %%writefile."""
        if name in _RUNS:
            from IPython.core.inputtransformer2 import TransformerManager  # takes half a second

            self._kernel.execute(TransformerManager().transform_cell(cell), f"<%%{name}>")
        elif name in _WRITES and line.split():
            mode = "a" if "-a" in line.split() else "w"
            with open(line.split()[-1], mode, encoding="utf-8") as file:  # noqa: PTH123
                file.write(cell)

    def getoutput(self, *_: Any, **__: Any) -> list[str]:
        """`x = !ls`: there is no shell."""
        return []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _without_options(line: str) -> str:
    words = line.split(" ")
    while words and words[0].startswith("-"):
        words = words[2:] if len(words[0]) == 2 and words[1:] and words[1].isdigit() else words[1:]
    return " ".join(words)


# --- course_lib ----------------------------------------------------------------------------------


class _Closed(importlib.abc.MetaPathFinder):
    """Answers are graded without the course's library."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name.split(".")[0] == "course_lib":
            raise ModuleNotFoundError("answers are graded without course_lib", name=name)


def put_course_lib(check: Callable[..., None]) -> None:
    """Put what an exercise notebook uses of `course_lib` in its place: names that do nothing.

    Args:
        check: called with what a cell passes to `check`.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "course_lib"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Closed())
    nothing = {"ask": lambda *_, **__: None, "report": lambda *_, **__: ""}
    for name in ("course_lib", "course_lib.checks", "course_lib.colab"):
        module = sys.modules[name] = ModuleType(name)
        spec = ModuleSpec(name, None, is_package=True)
        vars(module).update(nothing, check=check, __spec__=spec, __path__=[])
