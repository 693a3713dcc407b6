"""Small changes to a solution, one each: wrong answers by the hundred (see `mutation`)."""

import ast
import copy
import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from course_tools.exercise_bank.load import BEGIN

_COMPARE: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt, ast.GtE),
    ast.Gt: (ast.GtE, ast.LtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_BINARY: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult, ast.FloorDiv), ast.FloorDiv: (ast.Div, ast.Mult), ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.BitXor: (ast.BitAnd,),
}  # fmt: skip
_NAMES = {
    "tril": ("triu",), "triu": ("tril",), "max": ("min",), "min": ("max",), "amax": ("amin",),
    "zeros": ("ones",), "ones": ("zeros",), "zeros_like": ("ones_like",),
    "ones_like": ("zeros_like",), "maximum": ("minimum",), "minimum": ("maximum",),
    "any": ("all",), "all": ("any",), "argmax": ("argmin",), "float64": ("float32",),
    "sum": ("mean", "max"), "mean": ("sum",), "log": ("log2",), "exp": ("expm1",), "append": (),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A changed solution.

    Attributes:
        exercise: its number.
        change: what was changed, with the line of the solution.
        source: the whole changed text, as `ast.unparse` writes it.
    """

    exercise: str
    change: str
    source: str


def mutants(exercise: str, source: str, answer: str) -> list[Mutant]:
    """All mutants of a solution, one change each, without repetitions.

    Args:
        exercise: its number.
        source: of the answer cell.
        answer: the name that it defines.

    Returns:
        The mutants in the order of the text.
    """
    tree = ast.parse(source)
    _drop_docstrings(tree)
    whole = ast.unparse(tree)
    first = _first_solution_line(source)
    seen, found = {whole}, []
    for place, node in enumerate(ast.walk(tree)):
        if getattr(node, "lineno", first) < first or isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        others = _other_names(tree, node)
        # A list, because every change is undone before the next.
        for index, what in enumerate(list(_changes(node, others))):
            changed = copy.deepcopy(tree)
            twin = next(n for i, n in enumerate(ast.walk(changed)) if i == place)
            text = _applied(changed, twin, index, others)
            if text is not None and text not in seen:
                seen.add(text)
                line = getattr(node, "lineno", "?")
                found.append(Mutant(exercise, f"line {line}: {what}", text))
    return found


def added_lines(before: str, after: str) -> str:
    """What a mutant has that the solution has not, with the removed lines marked by a minus."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def normal_form(source: str) -> str:
    """The solution as mutants are written: no comments, no docstrings."""
    tree = ast.parse(source)
    _drop_docstrings(tree)
    return ast.unparse(tree)


def _applied(tree: ast.Module, node: ast.AST, index: int, others: Sequence[str]) -> str | None:
    """Apply the index-th change of a node of this very tree; None if it is not Python then."""
    for i, _ in enumerate(_changes(node, others)):
        if i == index:
            ast.fix_missing_locations(tree)
            try:
                text = ast.unparse(tree)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SyntaxWarning)
                    compile(text, "mutant", "exec")
            except (SyntaxError, ValueError, TypeError, AttributeError):
                return None
            return text
    return None


def _changes(node: ast.AST, others: Sequence[str] = ()) -> Iterator[str]:
    """Change a node in place, say how, and undo it when asked for the next change."""
    match node:
        case ast.Compare():
            yield from _swap_items(node.ops, _COMPARE, "comparison")
        case ast.BinOp():
            yield from _swap_field(node, "op", _BINARY)
            with_operands = node.left, node.right
            for keep in with_operands:
                yield from _replaced_value(node, keep)
            if isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.MatMult, ast.Pow)):
                node.left, node.right = node.right, node.left
                yield "operands swapped"
                node.left, node.right = node.right, node.left
        case ast.BoolOp():
            yield from _swap_field(node, "op", {ast.And: (ast.Or,), ast.Or: (ast.And,)})
        case ast.UnaryOp():
            yield from _replaced_value(node, node.operand)
        case ast.Constant():
            yield from _constants(node)
        case ast.If() | ast.While() | ast.IfExp():
            test = node.test
            node.test = ast.UnaryOp(op=ast.Not(), operand=test)
            yield "condition negated"
            if not isinstance(node, ast.While):
                for constant in (True, False):
                    node.test = ast.Constant(constant)
                    yield f"condition {constant}"
            node.test = test
        case ast.Slice():
            yield from _slices(node)
        case ast.Subscript():
            yield from _replaced_value(node, node.value)
        case ast.Call():
            yield from _calls(node)
        case ast.Attribute():
            yield from _names(node)
        case ast.Return():
            yield from _returns(node)
        case ast.AugAssign():
            yield from _swap_field(node, "op", _BINARY)
        case ast.comprehension():
            ifs, node.ifs = node.ifs, []
            if ifs:
                yield "condition of a comprehension removed"
            node.ifs = ifs
        case ast.Name(ctx=ast.Load()):
            old = node.id
            for name in others:
                node.id = name
                yield f"{old} becomes {name}"
            node.id = old
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            yield from _statements(block)


def _other_names(tree: ast.Module, node: ast.AST) -> list[str]:
    """For a variable, the neighbour among the variables of its function: q for k, k for q."""
    if not isinstance(node, ast.Name):
        return []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and any(n is node for n in ast.walk(function)):
            names = [a.arg for a in function.args.args if a.arg != "self"]
            names += [
                n.id
                for n in ast.walk(function)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            ]
            names = list(dict.fromkeys(names))
            if node.id in names and len(names) > 1:
                return [names[(names.index(node.id) + 1) % len(names)]]
    return []


def _swap_field(node: Any, name: str, table: dict[type, tuple[type, ...]]) -> Iterator[str]:
    old = getattr(node, name)
    for kind in table.get(type(old), ()):
        setattr(node, name, kind())
        yield f"{type(old).__name__} becomes {kind.__name__}"
    setattr(node, name, old)


def _swap_items(ops: list[Any], table: dict[type, tuple[type, ...]], what: str) -> Iterator[str]:
    for i, old in enumerate(list(ops)):
        for kind in table.get(type(old), ()):
            ops[i] = kind()
            yield f"{what} {type(old).__name__} becomes {kind.__name__}"
        ops[i] = old


def _replaced_value(node: Any, keep: ast.AST) -> Iterator[str]:
    """Turn the node into one of its own parts."""
    kind, fields = node.__class__, dict(node.__dict__)
    node.__class__, node.__dict__ = keep.__class__, dict(keep.__dict__)
    if "ctx" in fields:
        node.ctx = fields["ctx"]
    yield f"only {ast.unparse(keep)[:40]}"
    node.__class__, node.__dict__ = kind, fields


def _constants(node: ast.Constant) -> Iterator[str]:
    old = node.value
    if isinstance(old, bool):
        options: list[Any] = [not old]
    elif isinstance(old, int):
        options = [old + 1, old - 1, -old] if old else [1, -1]
    else:
        options = ([old * 2, 0.0, -old] if old else [1.0]) if isinstance(old, float) else []
    for value in options:
        node.value = value
        yield f"{old!r} becomes {value!r}"
    node.value = old


def _slices(node: ast.Slice) -> Iterator[str]:
    for name in ("lower", "upper"):
        old = getattr(node, name)
        if old is not None:
            setattr(node, name, None)
            yield f"{name} end of a slice removed"
            for step in (1, -1):
                op = ast.Add() if step > 0 else ast.Sub()
                setattr(node, name, ast.BinOp(left=old, op=op, right=ast.Constant(1)))
                yield f"{name} end of a slice {step:+d}"
        else:
            for value in (1, -1):
                setattr(node, name, ast.Constant(value))
                yield f"{name} end of a slice becomes {value}"
        setattr(node, name, old)


def _calls(node: ast.Call) -> Iterator[str]:
    for i in range(len(node.args) - 1):
        args = node.args
        args[i], args[i + 1] = args[i + 1], args[i]
        yield f"arguments {i} and {i + 1} swapped"
        args[i], args[i + 1] = args[i + 1], args[i]
    for i in range(len(node.args)):
        old = node.args
        node.args = old[:i] + old[i + 1 :]
        yield f"argument {i} removed"
        node.args = old
    for i, keyword in enumerate(node.keywords):
        old_keywords = node.keywords
        node.keywords = old_keywords[:i] + old_keywords[i + 1 :]
        yield f"keyword {keyword.arg} removed"
        node.keywords = old_keywords
    if isinstance(node.func, ast.Attribute) and not _is_module(node.func.value):
        yield from _replaced_value(node, node.func.value)
    elif len(node.args) >= 1 and not isinstance(node.args[0], ast.Starred):
        yield from _replaced_value(node, node.args[0])


def _is_module(node: ast.AST) -> bool:
    names = {"np", "torch", "math", "F", "numpy", "tl", "triton", "functional", "nn"}
    return (isinstance(node, ast.Name) and node.id in names) or (
        isinstance(node, ast.Attribute) and node.attr in ("functional", "nn")
    )


def _names(node: ast.Attribute) -> Iterator[str]:
    old = node.attr
    for name in _NAMES.get(old, ()):
        node.attr = name
        yield f"{old} becomes {name}"
    node.attr = old


def _returns(node: ast.Return) -> Iterator[str]:
    old = node.value
    if isinstance(old, ast.Tuple) and len(old.elts) > 1:
        for i in range(len(old.elts) - 1):
            e = old.elts
            e[i], e[i + 1] = e[i + 1], e[i]
            yield f"returned parts {i} and {i + 1} swapped"
            e[i], e[i + 1] = e[i + 1], e[i]
    if old is not None:
        node.value = None
        yield "returns nothing"
    node.value = old


def _statements(block: list[ast.stmt]) -> Iterator[str]:
    for i, old in enumerate(list(block)):
        if isinstance(old, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)):
            continue
        block[i] = ast.Pass()
        yield f"statement removed: {ast.unparse(old).splitlines()[0][:50]}"
        block[i] = old


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]


def _first_solution_line(source: str) -> int:
    lines = source.splitlines()
    return next((i for i, line in enumerate(lines, 1) if BEGIN in line), 1)
