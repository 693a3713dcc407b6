"""The pins of the emulated runtime, and whether Colab still has them.

`python -m tests.colab.pins` asks googlecolab/backend-info, and `python -m tests.colab.pins FILE`
reads a `pip freeze` that you downloaded. Exit status 1 if a pin is out of date.
"""

import re
import sys
import urllib.request
from pathlib import Path

PINS = Path(__file__).with_name("pins.txt")
#: Google writes this from the runtime's image.
SOURCE = "https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.gpu.txt"
#: What the subset leaves out: gigabytes, or only there for what needs them.
HEAVY = ("torch", "triton", "transformers", "notebook")


def pins(text: str) -> dict[str, str]:
    r"""Name -> version of every `name==version` line; a build such as +cu128 is left off.

    >>> pins("# Colab\ntorch==2.11.0+cu128\nJupyter_Client==7.4.9\n")
    {'torch': '2.11.0', 'jupyter-client': '7.4.9'}
    """
    found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def departures(ours: str, theirs: str) -> list[str]:
    """How a `pip freeze` of Colab departs from our pins, one line each.

    Raises:
        ValueError: if it is no such list.
    """
    there = pins(theirs)
    if "ipykernel" not in there:
        raise ValueError("expected a `pip freeze` of Colab's runtime; got none with ipykernel")
    return [
        f"{name}: pinned {version}, Colab has {there.get(name, 'none')}"
        for name, version in pins(ours).items()
        if there.get(name) != version
    ]


def main(arguments: list[str]) -> int:
    """Print the departures."""
    if arguments:
        theirs = Path(arguments[0]).read_text("utf-8")
    else:
        with urllib.request.urlopen(SOURCE, timeout=30) as answer:
            theirs = answer.read().decode("utf-8")
    found = departures(PINS.read_text("utf-8"), theirs)
    print("\n".join(found) or "Colab has what pins.txt says")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
