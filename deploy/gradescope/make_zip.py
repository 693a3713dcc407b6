"""Packs the grader of one chapter as an autograder for Gradescope (see docs/teaching/grading.md).

    python deploy/gradescope/make_zip.py 5 autograder_5.zip
    python deploy/gradescope/make_zip.py 5 autograder_5.zip --pip-options "--extra-index-url ..."

The zip holds the solutions and a secret seed: upload it, and keep it to yourself.
"""

import argparse
import secrets
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
FOLDERS = ("course_lib", "course_tools", "solutions", "notebooks/source", "benchmarks/results")


def main() -> None:
    """Write the zip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", help="what inputs are drawn from (default: a new one)")
    parser.add_argument("--pip-options", default="", help="such as an index with a smaller torch")
    options = parser.parse_args()
    if not list((ROOT / "solutions").glob(f"{options.chapter:02}_*.py")):
        parser.error(f"chapter: there are no exercises {options.chapter}")
    contents = {
        "seed": options.seed or secrets.token_hex(16),
        "chapter": str(options.chapter),
        "pip_options": options.pip_options,
    }
    with zipfile.ZipFile(options.out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("setup.sh", "run_autograder"):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, (Path(__file__).parent / name).read_bytes())
        for name, text in contents.items():
            archive.writestr(name, text)
        for file in files():
            archive.write(file, f"course/{file.relative_to(ROOT).as_posix()}")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, chapter {options.chapter}")


def files() -> list[Path]:
    """What the grader needs of the repo."""
    inside = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*"))]
    kept = [file for file in inside if file.is_file() and "__pycache__" not in file.parts]
    return [*(ROOT / name for name in FILES), *kept]


if __name__ == "__main__":
    main()
