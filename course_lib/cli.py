"""The command `course`: what authors and teachers type."""

import argparse
import sys
from collections.abc import Sequence

from course_lib import __version__
from course_lib.project import configure_address, load_project


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `course`; those of the process if not given.

    Returns:
        The exit status: 0 if all is well, 1 if a check found something, 2 for wrong use.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="course", description="The course on causal attention.")
    parser.add_argument("--version", action="version", version=f"course {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    build = commands.add_parser("build", help="build the notebooks from notebooks/source")
    build.add_argument("names", nargs="*", help="chapters, such as 02_tril_mask (default: all)")
    build.add_argument(
        "--check", action="store_true", help="compare with the files and change nothing"
    )
    build.set_defaults(run=_build)

    configure = commands.add_parser("configure", help="set where the student tree is published")
    configure.add_argument("--address", required=True, help="https://github.com/OWNER/NAME")
    configure.set_defaults(run=_configure)
    return parser


def _build(options: argparse.Namespace) -> int:
    try:
        from course_lib.build import CellFailedError, build
    except ModuleNotFoundError as error:
        raise ValueError(
            f"needs {error.name}, a tool of authors; install it with pip install -e '.[teach]'"
        ) from None
    try:
        problems = build(load_project(), options.names, check=options.check)
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


if __name__ == "__main__":
    sys.exit(main())
