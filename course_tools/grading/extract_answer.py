"""From a notebook to an answer: the statements that define it and those that it needs.

Only the syntax tree is read; nothing runs here. What an answer depends on (imports, helpers,
assignments of any kind, changes of what was assigned) is kept in the notebook's order, moved
forward only where a name would not be bound yet; stray cells (plots, timings, endless loops) are
left out.
"""

import ast
import builtins
import contextlib
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

#: Cell magics whose cell is ordinary Python below its first line.
_PLAIN_MAGICS = {"%%time", "%%timeit", "%%capture", "%%prun"}
#: Most letters of a cell and braces in it (long f-strings take the square of their parts), most
#: statements of a notebook.
_MOST_LETTERS, _MOST_BRACES, _MOST_STATEMENTS = 400_000, 20_000, 5_000
#: IPython reads a cell once for each of its magics: most letters and magics that it may read.
_IPYTHON_LETTERS, _IPYTHON_MAGICS = 20_000, 40
#: What a line of IPython may look like: %magic, !shell, name?, x = !shell.
_MAGIC_LINE = re.compile(
    r"^([ \t]*)(?:[%!?].*|[\w.]+\?{1,2}[ \t]*|[^=\n]*=[ \t]*[%!].*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a cell.

    Attributes:
        node: its syntax tree.
        text: its source.
        cell: place of its cell.
        binds: names that it defines or changes.
        defines: names among them that it defines anew.
        now: names that it reads when it runs.
        later: names that functions in it read when they are called.
    """

    node: ast.stmt
    text: str
    cell: int
    binds: frozenset[str]
    defines: frozenset[str]
    now: frozenset[str]
    later: frozenset[str]


@dataclass
class Program:
    """All statements of a notebook that could be read.

    Attributes:
        statements: in the order of the cells.
        cells: as Python, magics as calls of `get_ipython()`.
        unreadable: for each cell that is not Python, what is wrong with it, and its text.
    """

    statements: list[Statement] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def names(self) -> set[str]:
        """All names that some statement defines."""
        return {name for statement in self.statements for name in statement.defines}

    def answer(self, name: str) -> str | None:
        """The source of an answer with everything that it depends on.

        Args:
            name: of the function, class or value.

        Returns:
            Python source, or None if the notebook does not define the name.

        Raises:
            ValueError, RecursionError: if its statements depend on each other beyond all measure.
        """
        found = [s for s in self.statements if name in s.defines]
        if not found:
            return None
        written = [s for s in found if not is_stub(s.node)]
        wanted = self._closure(name, (written or found)[-1])
        return "\n".join(s.text for s in _ordered(wanted)) + "\n"

    def mentions(self, name: str) -> str | None:
        """What is wrong with an unreadable cell that seems to define a name, or None."""
        pattern = re.compile(rf"^[ \t]*((def|class)[ \t]+{name}\b|{name}[ \t]*=)", re.MULTILINE)
        return next((wrong for wrong, text in self.unreadable if pattern.search(text)), None)

    def check_cell(self, number: str, name: str) -> int:
        """Place of the last cell that checks an exercise, else of the last that binds its name."""
        check = re.compile(rf"\bcheck\([ \t\n]*[\"']{re.escape(number)}[\"']")
        found = [i for i, cell in enumerate(self.cells) if check.search(cell)]
        found = found or [s.cell for s in self.statements if name in s.binds]
        return found[-1] if found else len(self.cells) - 1

    def _closure(self, name: str, last: Statement) -> list[Statement]:
        """The statements that an answer needs, in the notebook's order."""
        place = next(i for i, s in enumerate(self.statements) if s is last)
        if name not in last.now:  # earlier versions of the answer do not concern the last one
            dropped = {id(s) for s in self.statements if name in s.defines and s is not last}
            dropped |= {id(s) for s in self.statements[:place] if name in s.binds}
            kept = self._reached(name, last, dropped)
            before = [s for s in self.statements[:place] if id(s) in kept]
            if not any(name in s.now for s in before):  # else: old = f; def f(): ... old() ...
                return [s for s in self.statements if id(s) in kept]
        kept = self._reached(name, last, set())
        return [s for s in self.statements if id(s) in kept]

    def _reached(self, name: str, last: Statement, dropped: set[int]) -> set[int]:
        """What can be reached from the last version, through the names that statements read."""
        binding: dict[str, list[Statement]] = {}
        for statement in self.statements:
            if id(statement) not in dropped:
                for bound in statement.binds:
                    binding.setdefault(bound, []).append(statement)
        kept: set[int] = set()
        seen: set[str] = set()
        todo = [last, *binding.get(name, [])]
        while todo:
            statement = todo.pop()
            if id(statement) in kept:
                continue
            kept.add(id(statement))
            fresh = (statement.now | statement.later) - seen
            seen |= fresh
            for needed in fresh:
                if needed in binding:
                    todo += binding[needed]
                elif not hasattr(builtins, needed):
                    todo += binding.get("*", [])
        return kept


def read_program(cells: Sequence[str]) -> Program:
    """Read the code cells of a notebook.

    Args:
        cells: their sources, in order.
    """
    program = Program()
    for place, cell in enumerate(cells):
        program.cells.append("")
        try:
            program.cells[-1], _ = python(cell)
            text, tree = python(_below_magic(cell))
            if len(program.statements) + len(tree.body) > _MOST_STATEMENTS:
                raise ValueError(f"more than {_MOST_STATEMENTS} statements")
            found = _statements(tree, text.split("\n"), place)
        except (SyntaxError, ValueError, RecursionError, MemoryError, RuntimeError) as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line} of its cell" if line else ""
            what = error.msg if isinstance(error, SyntaxError) else str(error)
            program.unreadable.append((f"{type(error).__name__}{where}: {what}"[:300], cell))
            continue
        program.statements += found
    return program


def is_stub(node: ast.stmt) -> bool:
    """Whether a definition is one that `course build` left for the student, untouched."""
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Constant) and node.value.value is None
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        raised = [n.exc for n in ast.walk(node) if isinstance(n, ast.Raise)]
        return any("NotImplementedError" in ast.unparse(exc) for exc in raised if exc)
    return False


# --- cells ---------------------------------------------------------------------------------------


def python(cell: str) -> tuple[str, ast.Module]:
    """A cell as Python, and its tree: magics become calls of `get_ipython()`.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: if it is none.
    """
    if len(cell) > _MOST_LETTERS or cell.count("{") > _MOST_BRACES:
        raise ValueError(f"a cell of {len(cell)} letters, {cell.count('{')} of them braces")
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about the student's code
        with contextlib.suppress(SyntaxError):
            return cell, ast.parse(cell)
        text = _without_magics(cell)
        return text, ast.parse(text)


def _below_magic(cell: str) -> str:
    """The Python of a cell that is one below a cell magic, or none."""
    first, _, rest = cell.lstrip().partition("\n")
    if not first.startswith("%%"):
        return cell
    return rest if first.split()[0] in _PLAIN_MAGICS else ""


def _without_magics(cell: str) -> str:
    magics = len(_MAGIC_LINE.findall(cell))
    if len(cell) <= _IPYTHON_LETTERS and magics <= _IPYTHON_MAGICS:
        return TransformerManager().transform_cell(cell)
    return _MAGIC_LINE.sub(r"\1pass", cell)


def _magic(node: ast.stmt) -> bool:
    return any(isinstance(n, ast.Name) and n.id == "get_ipython" for n in ast.walk(node))


def _statements(tree: ast.Module, cell: Sequence[str], place: int) -> list[Statement]:
    """The statements of a cell, given its tree, its lines and its place."""
    body, found = tree.body, []
    for i, node in enumerate(body):
        if _magic(node):
            continue
        # Decorators stand above the line where ast says that a function begins.
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        last = node.end_lineno or node.lineno
        alone = (i == 0 or (body[i - 1].end_lineno or 0) < first) and (
            i + 1 == len(body) or body[i + 1].lineno > last
        )
        text = "\n".join(cell[first - 1 : last]) if alone else ast.unparse(node)
        names = _Names()
        names.visit(node)
        later = names.later & _global_names(text) if names.later else set()
        found.append(
            Statement(
                node, text, place, frozenset(names.binds), frozenset(names.defines),
                frozenset(names.now), frozenset(later),
            )
        )  # fmt: skip
    return found


def _global_names(text: str) -> set[str]:
    """Names that functions in a statement take from outside: not their arguments and variables."""
    found: set[str] = set()
    todo = [symtable.symtable(text, "<cell>", "exec")]
    while todo:
        table = todo.pop()
        todo += table.get_children()
        if table.get_type() != "module":
            found |= {s.get_name() for s in table.get_symbols() if s.is_global()}
    return found


class _Names(ast.NodeVisitor):
    """Which names a top-level statement binds and reads, now and later."""

    def __init__(self) -> None:
        self.binds: set[str] = set()
        self.defines: set[str] = set()
        self.now: set[str] = set()
        self.later: set[str] = set()
        self._depth = 0  # inside functions, whose bodies run later
        self._inner = 0  # inside classes and comprehensions, whose names are their own

    def _define(self, name: str) -> None:
        if self._depth == 0 and self._inner == 0:
            self.binds.add(name)
            self.defines.add(name)

    def _function(self, node: Any) -> None:
        self._define(node.name)
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                self.visit(part)
        notes = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
        for note in (*notes, node.returns):
            if note is not None:
                self.visit(note)
        self._depth += 1
        for part in node.body:
            self.visit(part)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = _function  # noqa: N815 (names of ast)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for part in (*node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                self.visit(part)
        self._depth += 1
        self.visit(node.body)
        self._depth -= 1

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._define(node.name)
        for part in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
            self.visit(part)
        self._inner += 1
        for statement in node.body:
            self.visit(statement)
        self._inner -= 1

    def _comprehension(self, node: Any) -> None:
        self._inner += 1
        self.generic_visit(node)
        self._inner -= 1

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = (  # noqa: N815
        _comprehension
    )

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._define((alias.asname or alias.name).split(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._define(alias.asname or alias.name)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._define(node.name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            (self.later if self._depth else self.now).add(node.id)
        elif isinstance(node.ctx, ast.Store):
            self._define(node.id)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._changed(node.target)
        self.visit(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self._changed(node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store):
            self._changed(node)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        # names.append(3) changes what `names` is; print(names) does not.
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            base = _base(call.func.value)
            if base is not None and call.func.attr in _CHANGING and self._depth == 0:
                self.binds.add(base)
        self.generic_visit(node)

    def _changed(self, target: ast.expr) -> None:
        base = _base(target)
        if base is not None and self._depth == 0:
            self.binds.add(base)
            self.now.add(base)


#: Methods that change the object that they are called on.
_CHANGING = {"append", "extend", "insert", "update", "add", "setdefault", "remove", "pop", "fill"}
_CHANGING |= {
    "sort",
    "reverse",
    "clear",
    "copy_",
    "fill_",
    "zero_",
    "masked_fill_",
    "put",
    "resize",
}


def _base(node: ast.expr) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


# --- order ---------------------------------------------------------------------------------------


def _ordered(statements: list[Statement]) -> list[Statement]:
    """The notebook's order, with what is needed and not yet bound moved in front."""
    first: dict[str, Statement] = {}
    for statement in statements:
        for name in statement.defines:
            first.setdefault(name, statement)
    done: dict[int, Statement] = {}
    steps = _Steps()

    def emit(statement: Statement, above: frozenset[int]) -> None:
        if id(statement) in done or id(statement) in above:
            return
        for name in sorted(_needed_now(statement, first, steps)):
            emit(first[name], above | {id(statement)})
        done[id(statement)] = statement

    for statement in statements:
        emit(statement, frozenset())
    return list(done.values())


class _Steps:
    """Ends work that only a hostile notebook makes."""

    def __init__(self) -> None:
        self.left = 2_000_000

    def take(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError("its statements depend on each other in too many ways")


def _needed_now(statement: Statement, first: dict[str, Statement], steps: _Steps) -> Iterator[str]:
    """Names that must be bound before it runs, through the functions that it may call."""
    seen: set[str] = set()
    todo = [name for name in statement.now if name in first]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        steps.take(1 + len(first[name].later))
        todo += [n for n in first[name].later if n in first]
