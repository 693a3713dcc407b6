"""The command `course`: what authors and teachers type."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from course_lib import __version__
from course_tools.links import APPS, course_link, course_table
from course_tools.project import configure_address, load_project

_SUBMISSIONS = (
    "folders or zip files, each as Canvas, Moodle, Gradescope, Brightspace, Blackboard, GitHub "
    "Classroom or nbgrader give it, or with plain notebooks"
)
#: Commands of `course_lib` that `course` has too, each with the module that runs it.
_OF_THE_LIBRARY = {"audit": "course_lib.leaks.__main__", "pretrained": "course_lib.pretrained"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `course`; those of the process if not given.

    Returns:
        The exit status: 0 if all is well, 1 if a check found something, 2 for wrong use, 3 if
        no sandbox can be had.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _OF_THE_LIBRARY:
        return int(import_module(_OF_THE_LIBRARY[words[0]]).main(words[1:]))
    options = _parser().parse_args(words)
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="course", description="The course on causal attention.")
    parser.add_argument("--version", action="version", version=f"course {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    commands.add_parser("audit", help="does a model read the future? (python -m course_lib.leaks)")

    build = commands.add_parser(
        "build", help="build notebooks, exercises and the checks' data from their sources"
    )
    names = "what to build: 02_tril_mask, exercises/02_tril_mask, ... (default: all)"
    build.add_argument("names", nargs="*", help=names)
    how = build.add_mutually_exclusive_group()
    how.add_argument(
        "--check", action="store_true", help="compare with the files and change nothing"
    )
    sources = "the same for the sources of all, in seconds: no cell runs"
    how.add_argument("--check-sources", action="store_true", help=sources)
    build.set_defaults(run=_build)

    configure = commands.add_parser("configure", help="set where the student tree is published")
    configure.add_argument("--address", required=True, help="https://github.com/OWNER/NAME")
    configure.set_defaults(run=_configure)

    gpu = commands.add_parser("gpu-results", help="take over what benchmarks/on_gpu.sh measured")
    gpu.add_argument("archive", type=Path, metavar="ARCHIVE", help="OUT/on_gpu.tar.gz")
    gpu.set_defaults(run=_gpu_results)

    grade = commands.add_parser("grade", help="grade what a class handed in (needs Linux)")
    grade.add_argument(
        "submissions", type=Path, nargs="+", metavar="SUBMISSIONS", help=_SUBMISSIONS
    )
    grade.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")
    at_a_time = "submissions graded at a time (default: one a processor)"
    grade.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help=at_a_time)
    only = "grade this chapter only; may be given again"
    grade.add_argument(
        "--only", type=int, action="append", default=[], metavar="CHAPTER", help=only
    )
    seed = "what the inputs are drawn from (default: $COURSE_SEED, or a secret in DIR/seed.txt)"
    grade.add_argument("--seed", default=os.environ.get("COURSE_SEED"), metavar="TEXT", help=seed)
    alone = "all of it was handed in by this student, whatever the files are called"
    grade.add_argument("--student", default="", metavar="NAME", help=alone)
    teams = "Moodle's download is of teams: its names and numbers are not those of students"
    grade.add_argument("--teams", action="store_true", help=teams)
    part = "grade only students of part I of N (from 0) and write no tables: for many graders"
    grade.add_argument("--shard", metavar="I/N", help=part)
    unsafe = "run answers with your own rights, without a sandbox"
    grade.add_argument("--unsafe", action="store_true", help=unsafe)
    grade.set_defaults(run=_grade)

    link = commands.add_parser("link", help="links that open the course on a JupyterHub")
    link.add_argument("--hub", required=True, metavar="ADDRESS", help="https://hub.example.edu")
    what = link.add_mutually_exclusive_group()
    notebook = "what to open, such as exercises/05_kv_cache.ipynb (default: the chapters' folder)"
    what.add_argument("--notebook", metavar="PATH", help=notebook)
    every = "all chapters and exercises, as a Markdown table"
    what.add_argument("--all", action="store_true", help=every)
    branch = "of the published repository (default: the one it opens with)"
    link.add_argument("--branch", metavar="NAME", help=branch)
    link.add_argument("--app", choices=tuple(APPS), default="lab", help="default: lab")
    link.set_defaults(run=_link)

    fetched = "fetch the language model of the course (python -m course_lib.pretrained)"
    commands.add_parser("pretrained", help=fetched)

    release = commands.add_parser("release", help="write the tree that students get")
    release.add_argument("out", type=Path, metavar="OUT", help="a new folder, or an older release")
    release.add_argument("--zip", action="store_true", help="write OUT.zip beside it as well")
    release.set_defaults(run=_release)
    return parser


def _build(options: argparse.Namespace) -> int:
    try:
        from course_tools.build.notebooks import CellFailedError, build, stale_notebooks
    except ModuleNotFoundError as error:
        raise ValueError(
            f"needs {error.name}, a tool of authors; install it with pip install -e '.[teach]'"
        ) from None
    project = load_project()
    if options.check_sources and options.names:
        raise ValueError("--check-sources: looks at everything; expected no names")
    try:
        if options.check_sources:
            problems = stale_notebooks(project)
        else:
            problems = build(project, options.names, check=options.check)
    except CellFailedError as error:
        print(f"a cell failed, nothing was written for its notebook:\n{error}", file=sys.stderr)
        return 1
    for problem in problems:
        print(problem)
    if problems:
        print("run `course build` and commit what it writes")
    return 1 if problems else 0


def _configure(options: argparse.Namespace) -> int:
    configure_address(load_project(), options.address)
    print("Address set. Now run `course build`, which writes it into badges and setup cells.")
    return 0


def _gpu_results(options: argparse.Namespace) -> int:
    from course_tools.gpu_results import gpu_results

    lines = gpu_results(options.archive, load_project().root / "benchmarks" / "results")
    print("\n".join(lines))
    return 1 if any("FAILED" in line for line in lines) else 0


def _grade(options: argparse.Namespace) -> int:
    try:
        from course_tools.grading.command import grade
    except ModuleNotFoundError as error:
        raise ValueError(
            f"needs {error.name}, a tool of teachers; install it with pip install -e '.[teach]'"
        ) from None
    return grade(options, load_project())


def _link(options: argparse.Namespace) -> int:
    project = load_project()
    how = {"app": options.app, "branch": options.branch}
    if options.all:
        print(course_table(project, options.hub, **how))
    else:
        print(course_link(project, options.hub, options.notebook, **how))
    if "/OWNER/" in project.address:
        note = "this link leads nowhere yet: `course configure --address` sets what it pulls"
        print(f"course link: {note}", file=sys.stderr)
    return 0


def _release(options: argparse.Namespace) -> int:
    try:
        from course_tools.release.release import release
    except ModuleNotFoundError as error:
        raise ValueError(
            f"needs {error.name}, a tool of teachers; install it with pip install -e '.[teach]'"
        ) from None
    project = load_project()
    done = release(project, options.out, archive=options.zip)
    print(f"{done.out}: {done.files} files, {done.size / 1e6:.1f} MB")
    if done.archive is not None:
        print(f"{done.archive}: the same, {done.archive.stat().st_size / 1e6:.1f} MB")
    if "/OWNER/" in project.address:
        print("Its badges lead nowhere yet: `course configure --address` sets where it will lie.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
