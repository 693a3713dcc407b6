"""From the text that authors edit to the notebooks that students open (`course build`).

Percent-format sources in `notebooks/source/` become executed notebooks in `notebooks/` (those in
`source/more/` in `notebooks/more/`), and sources in `solutions/*.py` become exercises and
solutions (see `exercises`).
The result is reproducible to the byte in the pinned environment (`constraints.txt`): cell ids
follow from the headings, metadata is fixed, and what depends on the machine is not saved.
"""

import json
import multiprocessing
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from course_lib.example import TOKENS, K, Q, V
from course_lib.figures.traces import mask_view
from course_lib.lesson import BUILD, QUIET
from course_lib.masks import causal
from course_lib.trace import trace
from course_tools.build import exercises
from course_tools.build.minutes import FIGURE_TAG, minutes_of, reading
from course_tools.build.version import write_version
from course_tools.exercise_bank.load import exercise_sources, read_exercise_source
from course_tools.project import Chapter, Project

#: Cells with this tag print what depends on the machine; nbval does not compare it either.
MACHINE_TAG = "nbval-ignore-output"
MACHINE_NOTE = "(This output depends on your machine: run the cell to see yours.)\n"
#: Saved notebooks carry these and no other notebook metadata.
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
_TABLE = re.compile(r"(<!-- chapters: written by `course build` -->\n).*?(<!-- end -->)", re.DOTALL)

_EXERCISES = re.compile(
    r"(<!-- exercises: written by `course build` -->\n).*?(<!-- end -->)", re.DOTALL
)


class CellFailedError(RuntimeError):
    """A cell of a notebook failed; the message shows the cell and its error."""


def assemble(source: str, chapter: Chapter, project: Project) -> NotebookNode:
    """The unexecuted notebook of a source text: badge and setup cell added, ids given.

    A cell tagged "figure" only draws; it begins with a line `# @title What it shows` and is
    folded: in JupyterLab and on the site its source is hidden, on Colab it is a form.

    Args:
        source: percent-format text; its first cell is the title.
        chapter: the chapter that it is.
        project: for the addresses.

    Returns:
        The notebook.

    Raises:
        ValueError: if the first cell is not a markdown title, or a figure's cell has none.
    """
    notebook = jupytext.reads(source, fmt="py:percent")
    minutes = reading(notebook.cells).minutes
    badge = f"{_badge(project, f'{chapter.page}.ipynb')} {minutes} minutes to read and try out."
    dress(notebook, chapter.name, f"{badge}{_both_ways(chapter, project)}", project)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if FIGURE_TAG in tags:
            if not cell.source.startswith("# @title "):
                raise ValueError(
                    f"{chapter.name}: expected '# @title ...' first in {cell.source!r}"
                )
            cell.metadata.tags = [*tags, "hide-input"]
            cell.metadata.update({"jupyter": {"source_hidden": True}, "cellView": "form"})
    return notebook


def dress(notebook: NotebookNode, name: str, badge: str, project: Project) -> None:
    """Add the badge and setup cells, give ids, clear outputs and the notebook's metadata.

    Args:
        notebook: as read from a source; changed in place. Metadata of cells stay.
        name: of the source, for messages.
        badge: text of the second cell.
        project: for the addresses.

    Raises:
        ValueError: if the first cell is not a markdown title.
    """
    if not notebook.cells or not notebook.cells[0].source.startswith("# "):
        raise ValueError(f"{name}: expected a markdown cell with the title ('# ...') first")
    notebook.cells[1:1] = [nbformat.v4.new_markdown_cell(badge), _setup_cell(project, notebook)]
    for cell, identity in zip(notebook.cells, _cell_ids(notebook.cells), strict=True):
        cell.id = identity
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def execute(notebook: NotebookNode, folder: Path, *, check: bool = False) -> NotebookNode:
    """Run a notebook from top to bottom in a fresh kernel and normalise its outputs.

    Args:
        notebook: as from `assemble`; not changed.
        folder: working folder of the kernel.
        check: compare what was recorded of the real model (`course_lib.real_lesson`) instead of
            recording it anew.

    Returns:
        The executed notebook.

    Raises:
        CellFailedError: if a cell fails.
    """
    notebook = nbformat.from_dict(notebook)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        startup_timeout=300,  # the first start on a busy machine reads everything from disk
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # not the kernel's own remarks
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        real = {BUILD: "check" if check else "write"}
        client.execute(env={**os.environ, **real, QUIET: "1", "PYTHONHASHSEED": "0"})
    except CellExecutionError as error:
        raise CellFailedError(str(error)) from None
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _normalised(cell)
    return notebook


def to_text(notebook: NotebookNode) -> str:
    """The bytes that are saved: sorted keys, one line of source a line, one newline at the end."""
    nbformat.validate(notebook)
    plain = json.loads(nbformat.writes(notebook))
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def build(project: Project, names: Sequence[str] = (), *, check: bool = False) -> list[str]:
    """Build notebooks and the README's chapter table, or check that they are up to date.

    Args:
        project: the working copy.
        names: what to build, such as "05_kv_cache" (the chapter) and "exercises/05_kv_cache"
            (its exercises, their solutions and the data of their checks); all if empty.
        check: compare with the files instead of writing them. Outputs are compared only in the
            pinned environment (elsewhere with CI=true that is a problem); sources always.

    Returns:
        What differs, one line each; empty if nothing does (or if not `check`).

    Raises:
        ValueError: for an unknown name.
    """
    known = {c.name: c for c in project.notebooks}
    with_exercises = [f"exercises/{file.stem}" for file in exercise_sources(project.root).values()]
    wanted = [_bare(name) for name in names]
    wanted = wanted or [*known, *with_exercises]
    unknown = sorted(set(wanted) - {*known, *with_exercises})
    if unknown:
        choice = ", ".join([*known, *with_exercises])
        raise ValueError(f"names: expected some of {choice}; got {', '.join(unknown)}")
    mismatches = [] if not check else pin_mismatches(project.root / "constraints.txt")
    problems = []
    if mismatches:
        print(f"not the pinned environment ({mismatches[0]}): comparing sources, not outputs")
        if os.environ.get("CI") == "true":
            problems.append(f"CI must run in the pinned environment: {'; '.join(mismatches)}")
    how = {"check": check, "sources_only": bool(mismatches)}
    for name, found in zip(wanted, _side_by_side(project, wanted, how), strict=True):
        minutes = f", {minutes_of(project.root / known[name].source)} min" if name in known else ""
        print(f"{'checked' if check else 'built'} {name}{minutes}", flush=True)
        problems += found
    problems += _build_readme(project, check=check)
    problems += write_version(project, check=check)
    return problems + ([] if mismatches else _build_picture(project, check=check))


def _side_by_side(
    project: Project, names: Sequence[str], how: dict[str, bool]
) -> Iterator[list[str]]:
    """The problems of each name, in order; two are built at a time if there are several."""
    one = partial(_build_by_name, project, how)
    if len(names) == 1:
        yield one(names[0])
        return
    # Processes, because the time limits of checks work in a main thread only; not forked, because
    # torch has threads.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one, names)


def _build_by_name(project: Project, how: dict[str, bool], name: str) -> list[str]:
    if name.startswith("exercises/"):
        source = project.root / "solutions" / f"{name.removeprefix('exercises/')}.py"
        return _build_exercises(project, source, **how)
    chapter = next(c for c in project.notebooks if c.name == name)
    return _build_one(project, chapter, **how)


def stale_notebooks(project: Project) -> list[str]:
    """What is not what its source says, notebooks and README, without running any cell."""
    how = {"check": True, "sources_only": True}
    problems = []
    for chapter in project.notebooks:
        problems += _build_one(project, chapter, **how)
    for source in exercise_sources(project.root).values():
        problems += _build_exercises(project, source, **how)
    return problems + _build_readme(project, check=True) + write_version(project, check=True)


def pin_mismatches(constraints: Path) -> list[str]:
    """How this environment departs from the pinned one that saved outputs come from."""
    found = []
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        found.append(f"platform is {sys.platform} {platform.machine()}, pinned: linux x86_64")
    for line in constraints.read_text("utf-8").splitlines():
        pin = re.match(r"([\w.-]+)==([\w.]+)", line)
        if pin is None:
            continue
        try:
            installed = metadata.version(pin[1]).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if installed != pin[2]:
            found.append(f"{pin[1]} is {installed}, pinned: {pin[2]}")
    return found


def differences(old: NotebookNode, new: NotebookNode, *, sources_only: bool) -> Iterator[str]:
    """Lines that say which cells of two notebooks differ, and in what."""
    old_ids, new_ids = [c.id for c in old.cells], [c.id for c in new.cells]
    if old_ids != new_ids:
        gone = ", ".join(i for i in old_ids if i not in new_ids) or "none"
        added = ", ".join(i for i in new_ids if i not in old_ids) or "none"
        yield f"the cells are not those of the source (only saved: {gone}; only new: {added})"
        return
    if old.metadata != new.metadata:
        yield "the notebook's metadata differ"
    fields = ["cell_type", "source", "metadata"]
    fields += [] if sources_only else ["outputs", "execution_count"]
    for number, (a, b) in enumerate(zip(old.cells, new.cells, strict=True)):
        for field in fields:
            if a.get(field) != b.get(field):
                yield f"cell {number} ({b.id}): {field} differs"


# --- parts ---------------------------------------------------------------------------------------


def _build_one(project: Project, chapter: Chapter, *, check: bool, sources_only: bool) -> list[str]:
    source = (project.root / chapter.source).read_text("utf-8")
    target = project.root / f"{chapter.page}.ipynb"
    target.parent.mkdir(exist_ok=True)
    how = {"check": check, "sources_only": sources_only}
    return _write_or_compare(assemble(source, chapter, project), target, "notebooks", **how)


def _build_exercises(
    project: Project, source: Path, *, check: bool, sources_only: bool
) -> list[str]:
    """The data of the checks first: the notebooks' cells use them."""
    if not (check and sources_only):
        problems = exercises.data(project.root, int(source.stem[:2]), check=check)
    else:
        problems = []
    how = {"check": check, "sources_only": sources_only}
    for folder in ("exercises", "solutions"):
        solved = folder == "solutions"
        address = f"exercises/{source.stem}.ipynb"
        link = "" if solved else _badge(project, address)
        chapter = project.colab_url(f"notebooks/{source.stem}.ipynb")
        badge = exercises.badge(source, link, chapter)
        notebook = read_exercise_source(source)
        dress(notebook, source.stem, badge, project)
        exercises.finish(notebook, solved=solved)
        target = project.root / folder / f"{source.stem}.ipynb"
        target.parent.mkdir(exist_ok=True)
        problems += _write_or_compare(notebook, target, folder, **how)
    return problems


def _write_or_compare(
    notebook: NotebookNode, target: Path, folder: str, *, check: bool, sources_only: bool
) -> list[str]:
    """Execute a notebook and save it, or say how the saved one differs."""
    name = target.name if folder == "notebooks" else f"{folder}/{target.name}"
    if not (check and sources_only):
        notebook = execute(notebook, target.parent, check=check)
    if not check:
        _write(target, to_text(notebook))
        return []
    if not target.is_file():
        return [f"{name}: not built yet; run course build"]
    saved = target.read_text("utf-8")
    found = [
        f"{name}: {line}"
        for line in differences(
            nbformat.reads(saved, as_version=4), notebook, sources_only=sources_only
        )
    ]
    if not found and not sources_only and saved != to_text(notebook):
        found = [f"{name}: the file's layout differs (edited by hand?)"]
    return found


def _build_readme(project: Project, *, check: bool) -> list[str]:
    file = project.root / "README.md"
    text = file.read_text("utf-8")
    rows = [
        "| | Chapter | What it answers | Minutes | |",
        "|---|---|---|---|---|",
        *(
            f"| {'' if c.is_more else c.number} | [{c.title}]({c.page}.ipynb) | {c.question} "
            f"| {minutes_of(project.root / c.source)} | {_badge(project, f'{c.page}.ipynb')} |"
            for c in project.notebooks
        ),
    ]
    new, found = _TABLE.subn(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], text)
    if found != 1:
        return [f"README.md: expected one chapter table between its two marks; found {found}"]
    rows = exercises.table(project.root, lambda path: _badge(project, path))
    if rows:
        new, found = _EXERCISES.subn(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], new)
        if found != 1:
            return [f"README.md: expected one table of exercises between its marks; found {found}"]
    if check:
        return [] if new == text else ["README.md: a table differs; run course build"]
    if new != text:
        _write(file, new)
    return []


def _build_picture(project: Project, *, check: bool) -> list[str]:
    """The README's picture: one query of the running example."""
    file = project.root / "docs" / "images" / "sat.png"
    png = mask_view(trace(Q, K, V, causal(), TOKENS), "sat").png()
    if check:
        same = file.is_file() and file.read_bytes() == png
        return [] if same else ["docs/images/sat.png differs; run course build"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png)
    return []


#: `%pip` would add notes on restarting and on a newer pip, which lead students astray. The function
#: keeps its names to itself: a student's `sys` must not lead the grader to this cell.
_SETUP = """\
# Run this cell first. Where course_lib is missing, as on Colab, it installs that and nothing else.
def install_course_lib():
    import subprocess, sys

    package = "{package}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", package]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode != 0:
        hint = "{hint}"
        raise RuntimeError(f"pip did not install it:\\n{{done.stderr}}\\n{{hint}}") from None


try:
    import course_lib
except ModuleNotFoundError:
    install_course_lib()
{last}"""
_REPORT = """\
from course_lib.colab import report

print(report())"""
#: Where a section "On a real model" follows. Colab shows the two lines with @param as a form.
_REAL_MODEL = """\
# Each Colab notebook has a machine of its own: the box fetches the real model onto it (93 MB).
# A folder on your mounted Drive, such as /content/drive/MyDrive, keeps it for the next notebook.
fetch_model = True  # @param {type: "boolean"}
keep_in = ""  # @param {type: "string"}
from course_lib.colab import set_up

print(set_up(fetch_model=fetch_model, keep_in=keep_in))"""


def _setup_cell(project: Project, notebook: NotebookNode) -> NotebookNode:
    hint = "Is there a network? If pip says 404, tell whoever gave you this notebook."
    if "/OWNER/" in project.address:
        hint = "Its address is a placeholder: see `course configure --address`, `course build`."
    real = any("course_lib.real_lesson" in cell.source for cell in notebook.cells)
    last = _REAL_MODEL if real else _REPORT
    code = _SETUP.format(package=project.package_url, hint=hint, last=last)
    return nbformat.v4.new_code_cell(code, metadata={"tags": [MACHINE_TAG, "setup"]})


def _badge(project: Project, path: str) -> str:
    return f"[![Open in Colab]({_BADGE})]({project.colab_url(path)})"


def _both_ways(chapter: Chapter, project: Project) -> str:
    """A sentence that leads from a lesson to what goes deeper, or back."""
    if chapter.is_more:
        return f" It goes deeper than {_two_links(project.lesson(chapter), '../', project)}."
    deeper = [_two_links(more, "more/", project) for more in project.deeper(chapter)]
    return f" What goes deeper: {', '.join(deeper)}." if deeper else ""


def _two_links(to: Chapter, folder: str, project: Project) -> str:
    """On Colab a notebook stands alone, so it needs the whole address."""
    on_colab = project.colab_url(f"{to.page}.ipynb")
    return f"[{to.title}]({folder}{to.name}.ipynb) ([on Colab]({on_colab}))"


def _bare(name: str) -> str:
    """A notebook's name as somebody types it: with its folder, with its ending."""
    name = name.removesuffix(".ipynb").removeprefix("notebooks/")
    return name.removeprefix("more/")


def _cell_ids(cells: Sequence[NotebookNode]) -> Iterator[str]:
    """An id a cell from the last heading and a count: stable while the section stands."""
    section, used = "start", Counter[str]()
    for cell in cells:
        heading = re.match(r"#{1,4} +(.+)", cell.source) if cell.cell_type == "markdown" else None
        if heading:
            section = re.sub(r"[^a-z0-9]+", "-", heading[1].lower()).strip("-")[:48] or "section"
        used[section] += 1
        yield f"{section}-{used[section]}"


def _normalised(cell: NotebookNode) -> list[NotebookNode]:
    if MACHINE_TAG in cell.metadata.get("tags", []):
        if not cell.outputs:
            return []
        return [nbformat.v4.new_output("stream", name="stdout", text=MACHINE_NOTE)]
    outputs: list[NotebookNode] = []
    for output in cell.outputs:
        output.pop("transient", None)
        if "data" in output:
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
        same_stream = outputs and output.output_type == outputs[-1].output_type == "stream"
        if same_stream and output.name == outputs[-1].name:
            outputs[-1].text += output.text  # how a kernel cuts a stream is chance
        else:
            outputs.append(output)
    return outputs


def _write(path: Path, text: str) -> None:
    """Replace a file whole: a build that is interrupted leaves the old one."""
    scratch = path.with_suffix(path.suffix + ".new")
    scratch.write_text(text, "utf-8")
    scratch.replace(path)
