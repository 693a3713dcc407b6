"""Whether two pieces of code are the same but for their names (used by `course release`).

What a release must not hold, solutions, wrong answers and hidden checks, is compared with what it
does hold as syntax trees: formatting, comments, docstrings, annotations and the names of
variables, functions and imported modules do not count.
"""

import ast
import builtins
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

#: A window is so many statements in a row; a longer body is the windows in it.
WINDOW = 3
#: Code of fewer expressions and statements than this says nothing: `np.exp(x - x.max())` has 8.
SMALL = 9
_BUILTIN = frozenset(dir(builtins))
_BLOCKS = ("body", "orelse", "finalbody")
#: Fields of a tree that say nothing, and those that hold names.
_UNSAID = {"ctx", "type_comment", "type_params", "returns", "kind"}
_NAMING = {"id", "arg", "name", "rest", "names"}
#: What these names mean where a piece of text shows code without its imports.
_USUAL = {"np": "numpy", "F": "torch.nn.functional", "tl": "triton.language"}
_USUAL |= {name: name for name in ("math", "torch", "triton")}


@dataclass(frozen=True)
class Part:
    """A piece of code in normal form.

    Attributes:
        form: equal for two pieces that differ in names only.
        size: expressions and statements in it.
        line: where it begins.
    """

    form: str
    size: int
    line: int


def bodies(
    source: str, marks: tuple[str, str] | None = None, *, at_least: int = SMALL
) -> list[Part]:
    """What may not be copied: every whole body, a longer one as every `WINDOW` of it.

    Args:
        source: Python.
        marks: words of the comments between which lie the lines that count; all lines if not
            given.
        at_least: smallest part that counts.

    Returns:
        The parts; of a body that is one `return`, its expression.
    """
    tree, names = _parsed(source)
    regions = _regions(source, *marks) if marks else None
    parts = []
    for block in _blocks(tree):
        if regions is None:
            runs = [] if isinstance(block, _TopLevel) else [list(block)]
        else:
            marked = groupby(block, key=lambda statement: regions.get(statement.lineno))
            runs = [list(run) for region, run in marked if region is not None]
        for run in runs:
            n = min(len(run), WINDOW)
            parts += [_part(run[i : i + n], names) for i in range(len(run) - n + 1)]
    return [part for part in parts if part.size >= at_least]


def everything(source: str) -> Iterator[Part]:
    """Every run of one to `WINDOW` statements, and every expression, of a text."""
    tree, names = _parsed(source)
    for block in _blocks(tree):
        for n in range(1, WINDOW + 1):
            for i in range(len(block) - n + 1):
                yield _part(block[i : i + n], names)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            yield _part([ast.copy_location(ast.Expr(node), node)], names)


def copied(secret: Mapping[str, Sequence[Part]], sources: Mapping[str, str]) -> list[str]:
    """Which of the sources holds a part that it must not.

    Args:
        secret: name of a file -> its parts that are worth a comparison.
        sources: name -> Python that is compared; what is not Python is passed over.

    Returns:
        A line for each, such as "exercises/02.ipynb: holds line 12 of solutions/02.py".
    """
    known: dict[str, str] = {}
    for name, parts in secret.items():
        for part in parts:
            known.setdefault(part.form, f"line {part.line} of {name}")
    found = []
    for name, source in sources.items():
        try:
            held = {known[part.form] for part in everything(source) if part.form in known}
        except SyntaxError:
            continue
        found += [f"{name}: holds {place}" for place in sorted(held)]
    return found


# --- parts ---------------------------------------------------------------------------------------


class _TopLevel(list[ast.stmt]):
    """The statements of a module: no body of anything."""


def _parsed(source: str) -> tuple[ast.Module, dict[str, str]]:
    """The tree without imports, docstrings and annotations, and what the imported names mean."""
    tree = ast.parse(textwrap.dedent(source))
    names = dict(_USUAL)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return _Plain().visit(tree), names


class _Plain(ast.NodeTransformer):
    """Drops what does not matter to what code does."""

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Pass = visit_Import  # noqa: N815 (names of ast)

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        self.generic_visit(node)
        return None if is_text else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.Assign | None:
        if node.value is None:
            return None
        plain = ast.copy_location(ast.Assign([node.target], node.value), node)
        self.generic_visit(plain)
        return plain

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.copy_location(ast.arg(node.arg), node)


def _blocks(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """Every sequence of statements, and every lambda as the body that it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module):
            yield _TopLevel(node.body)
            continue
        if isinstance(node, ast.Lambda):
            yield [ast.copy_location(ast.Return(node.body), node)]
            continue
        for field in _BLOCKS:
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block


def _part(statements: Sequence[ast.stmt], names: Mapping[str, str]) -> Part:
    only: Sequence[ast.AST] = statements
    if len(statements) == 1 and isinstance(statements[0], (ast.Return, ast.Assign, ast.Expr)):
        only = [statements[0].value or ast.Constant(None)]
    writer = _Writer(names)
    for node in only:
        writer.write(node)
    return Part(" ".join(writer.words), writer.size, statements[0].lineno)


class _Writer:
    """Writes trees with names numbered in the order in which they appear.

    Imported names are written as what they mean, built-in ones as they are.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.numbers: dict[str, str] = {}
        self.words: list[str] = []
        self.size = 0

    def write(self, node: ast.AST) -> None:
        """Add a tree."""
        self.size += isinstance(node, (ast.expr, ast.stmt))
        self.words.append(f"({type(node).__name__}")
        for field in node._fields:
            if field in _UNSAID:
                continue
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                self.write(value)
            elif isinstance(value, list):
                self.words.append(str(len(value)))
                for item in value:
                    self._leaf(node, field, item)
            else:
                self._leaf(node, field, value)
        self.words.append(")")

    def _leaf(self, node: ast.AST, field: str, value: object) -> None:
        if isinstance(value, ast.AST):
            self.write(value)
        elif field in _NAMING and isinstance(value, str) and not isinstance(node, ast.keyword):
            self.words.append(self._new(value))
        else:
            self.words.append(repr(value))

    def _new(self, name: str) -> str:
        if name in _BUILTIN:
            return name
        if name in self.names:
            return self.names[name]
        return self.numbers.setdefault(name, f"_{len(self.numbers)}")


def _regions(source: str, begin: str, end: str) -> dict[int, int]:
    """Numbers of the lines between the marks -> which pair of marks it is."""
    found: dict[int, int] = {}
    region, inside = 0, False
    for number, line in enumerate(source.splitlines(), 1):
        region += begin in line
        inside = (inside or begin in line) and end not in line
        if inside:
            found[number] = region
    return found
