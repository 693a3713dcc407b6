"""`python -m course_lib.leaks TARGET`: audit a model from the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from course_lib.leaks.audit import audit
from course_lib.leaks.targets import find_target


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit one model and print the report.

    Args:
        arguments: the words of the command line; those of the process if not given.

    Returns:
        0 if nothing failed, 1 if something did, 2 for a target that cannot be tested.
    """
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.leaks", description="Does a model read the future?"
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, also for `course audit`."""
    target = "transformers:LlamaForCausalLM, module:name, or the folder of a saved model"
    parser.add_argument("target", metavar="TARGET", help=target)
    words = "number of words, for a function or a module that does not say it"
    parser.add_argument("--vocab-size", type=int, metavar="N", help=words)
    positions = "positions of the random texts (default: 10)"
    parser.add_argument("--length", type=int, default=10, metavar="T", help=positions)


def run(options: argparse.Namespace) -> int:
    """Audit what the options name, and print the report."""
    sys.path.insert(0, str(Path.cwd()))  # a module beside the user, as with `python -c`
    try:
        model = find_target(options.target)
        report = audit(model, vocab_size=options.vocab_size, length=options.length)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        print(f"{options.target}: {error}", file=sys.stderr)
        return 2
    print(report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
