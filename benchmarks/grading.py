"""A made class graded in the sandbox: seconds a submission, memory of the grader (teachers).

    python benchmarks/grading.py                       # 28 submissions; a minute or two
    python benchmarks/grading.py --count 280 --jobs 2  # writes results/grading.json

The class answers all chapters in turn with the accepted answers and the misconceptions of
`solutions/`, filled into the exercise notebooks. Every submission is graded by `course grade`'s
own code with the strongest sandbox of this machine. Where nbgrader is installed (the extra
`bench`), some of the same notebooks are graded by its `autograde` too, with one hidden test an
exercise; it has no sandbox, so the comparison is of time alone. The last printed line is one JSON
object.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import nbformat  # noqa: E402
import torch  # noqa: E402

from course_tools.exercise_bank.load import Bank, load_bank  # noqa: E402
from course_tools.grading.grade import GRADED, Grader, Result, grade_all  # noqa: E402
from course_tools.grading.submissions import Submission  # noqa: E402
from course_tools.sandbox.choose import choose  # noqa: E402

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "grading.json"
sys.path.insert(0, str(ROOT / "tests"))


def made(bank: Bank, count: int) -> list[Submission]:
    """The class: each chapter in turn, each third notebook with misconceptions."""
    from made_class import STEMS, as_file, filled, solutions, text_of

    STEMS.update({int(f.name[:2]): f.stem for f in (ROOT / "exercises").glob("[0-9]*.ipynb")})
    chapters = sorted({facts.chapter for facts in bank.exercises.values()} & STEMS.keys())
    found = []
    for i in range(count):
        chapter, turn = chapters[i % len(chapters)], i // len(chapters)
        answers = solutions(chapter)
        for number in answers:
            name = bank.exercises[number].answer
            wrong = [m.answer for m in bank.misconceptions.get(number, [])]
            others = {1: bank.accepted.get(number, []), 2: wrong}.get(turn % 3, [])
            if others:
                with contextlib.suppress(OSError, TypeError, AssertionError):  # has no file
                    answers[number] = text_of(others[turn % len(others)], name)
        data = as_file(filled(chapter, answers))
        found.append(Submission(f"student{i:05}", "", {}, f"{i}.ipynb", data, chapter=chapter))
    return found


def grade(bank: Bank, class_: list[Submission], jobs: int) -> tuple[dict[str, Any], list[Result]]:
    """Time of the whole class, of the submissions, and the memory of this process."""
    with (
        tempfile.TemporaryDirectory() as out,
        contextlib.closing(choose(False, ROOT / "solutions")) as backend,
    ):
        before = memory()
        begin = time.perf_counter()
        results = list(grade_all(Grader(bank, backend, "benchmark"), class_, Path(out), jobs))
        wall = time.perf_counter() - begin
        after = memory()
        chosen, limits = backend.name, backend.limits_note
    assert all(r.status == GRADED for r in results), {r.status for r in results}
    assert len(results) == len(class_)
    by_chapter: dict[int, list[float]] = {}
    for result in results:
        by_chapter.setdefault(result.chapter or 0, []).append(result.seconds)
    return {
        "sandbox": chosen, "limits": limits, "submissions": len(results), "jobs": jobs,
        "exercises": sum(len(r.exercises) for r in results),
        "wall_seconds": round(wall, 2), "seconds_per_submission": round(wall / len(results), 3),
        "median_seconds_of_one": round(statistics.median(r.seconds for r in results), 3),
        "median_by_chapter": {
            str(c): round(statistics.median(s), 3) for c, s in sorted(by_chapter.items())
        },
        "grader_mb_before": before, "grader_mb_most": after,
        "mb_per_worker_beyond_the_sandbox": round((after - before) / jobs, 1),
    }, results  # fmt: skip


def memory() -> float:
    """Most megabytes that this process ever held (Linux)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1000, 1)
    return 0.0


def nbgrader(class_: list[Submission], most: int) -> dict[str, Any]:
    """The same notebooks through nbgrader's autograde; only timed, one process."""
    if importlib.util.find_spec("nbgrader") is None:
        return {"skipped": "nbgrader is not installed (pip install -e '.[bench]')"}
    chosen = class_[:most]
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        (course / "nbgrader_config.py").write_text(
            "c = get_config()\n"
            f"c.CourseDirectory.root = {str(course)!r}\n"
            "c.ExecutePreprocessor.timeout = 60\n",
            "utf-8",
        )
        for submission in chosen:
            task = f"chapter{submission.chapter}"
            target = course / "submitted" / submission.student / task
            target.mkdir(parents=True)
            notebook = with_tests(submission.data)
            nbformat.write(notebook, target / "answer.ipynb")
            source = course / "source" / task
            if not source.exists():
                source.mkdir(parents=True)
                nbformat.write(notebook, source / "answer.ipynb")
        tasks = sorted({f"chapter{s.chapter}" for s in chosen})
        command = [sys.executable, "-m", "nbgrader"]
        for task in tasks:
            run([*command, "generate_assignment", task, "--force"], course)
        begin = time.perf_counter()
        for task in tasks:
            run([*command, "autograde", task, "--force"], course)
        wall = time.perf_counter() - begin
        done = len(list((course / "autograded").glob("*/*/answer.ipynb")))
    if done < len(chosen):
        return {"skipped": f"nbgrader graded {done} of {len(chosen)} notebooks here"}
    return {
        "version": importlib.metadata.version("nbgrader"), "submissions": len(chosen),
        "graded": done, "wall_seconds": round(wall, 2),
        "seconds_per_submission": round(wall / len(chosen), 3),
    }  # fmt: skip


def with_tests(data: bytes) -> nbformat.NotebookNode:
    """The notebook as nbgrader wants it: answer cells, and one locked test cell for each."""
    from made_class import number_of

    text = data.decode().replace("### BEGIN SOLUTION", "#").replace("### END SOLUTION", "#")
    notebook = nbformat.reads(text, as_version=4)
    cells = []
    for i, cell in enumerate(notebook.cells):
        cells.append(cell)
        number = number_of(cell)
        mark = {"schema_version": 3, "grade": False, "locked": False, "solution": False}
        cell.metadata.pop("nbgrader", None)
        if cell.cell_type == "code" and number:
            cell.metadata["nbgrader"] = mark | {
                "grade_id": f"a{i}",
                "solution": True,
                "task": False,
            }
            test = nbformat.v4.new_code_cell("assert True")
            test.metadata["nbgrader"] = mark | {
                "grade_id": f"t{i}", "grade": True, "locked": True, "points": 1, "task": False,
            }  # fmt: skip
            cells.append(test)
    notebook.cells = cells
    return notebook


def run(command: list[str], folder: Path) -> None:
    """A command of this environment, which must succeed (nbgrader calls others by their names)."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": here},
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)


def main() -> None:
    """Grade, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=28, help="submissions (default: 28)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--other", type=int, default=7, help="notebooks for nbgrader (default: 7)")
    parser.add_argument("--out", default=str(RESULTS), help="file for the results, or - for none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bank = load_bank(ROOT)
    class_ = made(bank, options.count)
    ours, _ = grade(bank, class_, options.jobs)
    other = nbgrader(class_, options.other)
    for name, found in (("course grade", ours), ("nbgrader", other)):
        print(name)
        for key, value in found.items():
            print(f"  {key.replace('_', ' ')}: {value}")
    ratios: dict[str, Any] = {
        "seconds_per_submission": ours["seconds_per_submission"],
        "minutes_for_1000": round(ours["seconds_per_submission"] * 1000 / 60, 1),
        "mb_per_worker": ours["mb_per_worker_beyond_the_sandbox"],
    }
    if other.get("graded") == other.get("submissions", -1):
        ratio = other["seconds_per_submission"] / (ours["seconds_per_submission"] * options.jobs)
        ratios["nbgrader_time_over_ours_one_core"] = round(ratio, 2)
    if options.out != "-":
        machine = {
            "processor": processor(), "cores": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version(), "torch": torch.__version__,
            "bubblewrap": version_of("bwrap"), "date": datetime.now(UTC).date().isoformat(),
        }  # fmt: skip
        kept = {"machine": machine, "course_grade": ours, "nbgrader": other, "ratios": ratios}
        Path(options.out).write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print(json.dumps(ratios))


def processor() -> str:
    """The processor's name, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "")


def version_of(program: str) -> str:
    """What a program says about its version, or "" if it is not there."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
