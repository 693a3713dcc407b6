"""Chapter 7's cells that a GPU runs otherwise, as a plain script: no Jupyter, no figures.

    python benchmarks/gpu_cells.py OUT.py && python OUT.py

Taken are the cells tagged `gpu` and those that ask for Triton, with the statements before them that
bind the names they use.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "notebooks" / "source" / "07_flash_on_gpu.py"


def cells(text: str) -> list[tuple[str, str]]:
    """(head line, code) of each code cell of a percent file."""
    found = []
    for part in text.split("\n# %%")[1:] if text.startswith("# %%") else text.split("# %%")[1:]:
        head, _, code = part.partition("\n")
        if "[markdown]" not in head:
            found.append((head, code))
    return found


def script(text: str) -> str:
    """The cells that need a GPU or Triton, and what they need."""
    wanted: list[tuple[str, ast.stmt]] = []  # source and syntax of each statement, in order
    taken: set[int] = set()
    for head, code in cells(text):
        for node in ast.parse(code).body:
            if '"gpu"' in head or "\nif HAVE_TRITON" in f"\n{code}":
                taken.add(len(wanted))
            wanted.append((_source(code, node), node))
    for at in range(len(wanted) - 1, -1, -1):  # from the end: what is needed stands before
        if at not in taken:
            continue
        for name in _used(wanted[at][1]):
            binding = next((i for i in range(at - 1, -1, -1) if name in _bound(wanted[i][1])), None)
            if binding is not None:
                taken.add(binding)
    needed = set().union(*(_used(wanted[at][1]) for at in taken))
    lines = [_only(wanted[at], needed) for at in sorted(taken)]
    return "\n".join(["import sys", f"sys.path.insert(0, {str(ROOT)!r})", *lines]) + "\n"


def _source(code: str, node: ast.stmt) -> str:
    """The lines of a statement, decorators and comments included (Triton reads them again)."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    return "\n".join(code.splitlines()[first - 1 : node.end_lineno])


def _only(statement: tuple[str, ast.stmt], needed: set[str]) -> str:
    """An import without the names that nobody needs, which may not be installed."""
    text, node = statement
    if isinstance(node, ast.Import | ast.ImportFrom):
        node.names = [a for a in node.names if (a.asname or a.name).split(".")[0] in needed]
        return ast.unparse(node)
    return text


def _used(node: ast.stmt) -> set[str]:
    """Names that a statement reads and, unless it is a plain assignment, does not bind itself."""
    read = {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
    if isinstance(node, ast.Assign | ast.AugAssign):
        own = [x for x in ast.walk(node) if isinstance(x, ast.comprehension)]
        return read - set().union(*(_bound(x.target) for x in own), set())
    arguments = {x.arg for x in ast.walk(node) if isinstance(x, ast.arg)}
    return read - _bound(node) - arguments


def _bound(node: ast.AST) -> set[str]:
    """Names that a statement binds, loop variables and the like included."""
    found: set[str] = set()
    for x in ast.walk(node):
        if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store):
            found.add(x.id)
        elif isinstance(x, ast.FunctionDef | ast.ClassDef):
            found.add(x.name)
        elif isinstance(x, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).split(".")[0] for a in x.names}
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(script(SOURCE.read_text("utf-8")), "utf-8")
