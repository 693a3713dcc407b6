"""The files of `deploy/` and the page that explains them agree with the grader and each other.

Nothing is executed on a cluster or at Gradescope here; docs/teaching/grading.md says so.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest
import yaml

from course_lib import __version__
from course_tools.cli import main
from course_tools.grading import command
from course_tools.sandbox.backends import Unsafe
from tests.helpers.attacks import table
from tests.helpers.paths import ROOT

DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "teaching" / "grading.md").read_text("utf-8")


def manifests():
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text("utf-8"))


def named(kind, name):
    (found,) = [m for m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def jobs():
    return [named("Job", "course-grade"), named("Job", "course-tables")]


def container(job):
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


# --- Kubernetes ----------------------------------------------------------------------------------


def test_every_pod_of_the_indexed_job_takes_the_shard_of_its_index():
    spec = named("Job", "course-grade")["spec"]
    assert spec["completionMode"] == "Indexed"
    (text,) = container(named("Job", "course-grade"))["args"]
    (shards,) = re.findall(r'--shard "\$JOB_COMPLETION_INDEX/(\d+)"', text)
    assert int(shards) == spec["completions"] == spec["parallelism"]
    assert "--shard" not in container(named("Job", "course-tables"))["args"][0]


def test_both_jobs_see_the_same_folders_image_and_seed_and_are_locked_up_alike():
    grade, tables = (container(job) for job in jobs())
    for part in ("image", "env", "volumeMounts", "securityContext", "resources"):
        assert grade[part] == tables[part], part
    assert grade["image"].endswith(f"/causal-attention-grader:{__version__}")
    claims = {m["metadata"]["name"] for m in manifests() if m["kind"] == "PersistentVolumeClaim"}
    (policy,) = [m for m in manifests() if m["kind"] == "NetworkPolicy"]
    for job in jobs():
        pod = job["spec"]["template"]
        used = {v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"]}
        assert used == claims
        assert pod["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        assert pod["spec"]["automountServiceAccountToken"] is False
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"] and "egress" not in policy["spec"]


@pytest.mark.parametrize(("status", "ends_with"), [(0, 0), (1, 0), (2, 2), (3, 3), (137, 137)])
def test_a_pod_fails_only_if_trying_again_could_help(status, ends_with, tmp_path):
    fake = tmp_path / "course"
    fake.write_text(f'#!/bin/sh\necho "$@"\nexit {status}\n')
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": "7"}
    runs = container(named("Job", "course-grade"))
    done = subprocess.run(
        [*runs["command"], *runs["args"]], env=env, capture_output=True, text=True
    )
    assert done.returncode == ends_with
    assert done.stdout == "grade /submissions --out /results --jobs 2 --shard 7/20\n"


def test_a_shard_grades_its_own_students_with_the_given_seed_and_writes_no_tables(
    tmp_path, monkeypatch, capsys
):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [f"lee{i}_1{i}_2{i}_02_tril_mask.ipynb" for i in range(8)]
    for name in names:
        shutil.copy(ROOT / "exercises" / "02_tril_mask.ipynb", folder / name)
    seen = []
    monkeypatch.setattr(command, "choose", lambda *a: Unsafe())
    monkeypatch.setattr(
        command, "grade_all", lambda grader, todo, *a: seen.append([s.student for s in todo]) or []
    )
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("COURSE_SEED", raising=False)
    words = ["grade", str(folder), "--out", str(out), "--jobs", "1"]
    assert main([*words, "--shard", "0/3"]) == 2
    assert "--shard: expected --seed" in capsys.readouterr().err
    assert main([*words, "--shard", "3/3", "--seed", "s"]) == 2
    assert not out.exists() and not seen
    monkeypatch.setenv("COURSE_SEED", "of the environment")
    for i in range(3):
        assert main([*words, "--shard", f"{i}/3"]) == 0
    assert (out / "seed.txt").read_text() == "of the environment\n"
    assert sorted(s for part in seen for s in part) == [f"lee{i}_1{i}" for i in range(8)]
    assert not list(out.rglob("*.csv"))


# --- the image and Gradescope --------------------------------------------------------------------


def test_the_image_copies_files_that_are_there():
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert {"pyproject.toml", "course_lib", "solutions"} <= {f for files in copied for f in files}
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["setup.sh", "run_autograder"])
def test_the_scripts_of_gradescope_are_shell(name):
    subprocess.run(["bash", "-n", DEPLOY / "gradescope" / name], check=True)


@pytest.fixture(scope="module")
def autograder(tmp_path_factory):
    """What `make_zip.py` packs, laid out as Gradescope does; `course` only writes its words."""
    folder = tmp_path_factory.mktemp("gradescope")
    make = [sys.executable, DEPLOY / "gradescope" / "make_zip.py", "5", folder / "a.zip"]
    subprocess.run(make, check=True, capture_output=True)
    with zipfile.ZipFile(folder / "a.zip") as archive:
        for info in archive.infolist():
            path = archive.extract(info, folder / "source")
            os.chmod(path, info.external_attr >> 16 or 0o644)  # noqa: PTH101
    for name in ("submission", "results", "source/course/.venv/bin"):
        (folder / name).mkdir(parents=True)
    return folder


def test_the_autograder_holds_what_grading_needs_and_nothing_that_was_built(autograder):
    source = autograder / "source"
    assert stat.S_IMODE((source / "run_autograder").stat().st_mode) == 0o755
    assert (source / "chapter").read_text() == "5" and len((source / "seed").read_text()) == 32
    for name in (
        "pyproject.toml",
        "solutions/hidden/chapter_5.py",
        "course_tools/sandbox/inside/worker.py",
    ):
        assert (source / "course" / name).read_bytes() == (ROOT / name).read_bytes()
    assert not list(source.rglob("__pycache__"))


TESTED = {"score": 3.0, "output": "", "tests": [{"number": "5.1"}]}
OTHER = {"score": 0, "output": "Not graded: chapter 3, not one that was asked for.", "tests": []}


@pytest.mark.parametrize(
    ("status", "results", "handed_in", "told"),
    [
        (0, [TESTED], ["a.ipynb"], TESTED),
        (1, [TESTED, OTHER], ["a.ipynb", "b.ipynb"], TESTED),
        (1, [OTHER], ["b.ipynb"], {"score": 0, "output": OTHER["output"]}),
        (2, [], ["x.txt"], {"score": 0, "output": "There is no notebook of this chapter here."}),
        (2, [], ["a.ipynb"], None),
        (3, [], ["a.ipynb"], None),
        (3, [TESTED], ["a.ipynb"], None),
    ],
)
def test_gradescope_gets_one_result_or_none(autograder, status, results, handed_in, told):
    for name in ("submission", "results"):
        shutil.rmtree(autograder / name)
        (autograder / name).mkdir()
    for name in handed_in:
        (autograder / "submission" / name).write_text("{}")
    fake = autograder / "source" / "course" / ".venv" / "bin" / "course"
    given = {f"s{i}/results.json": json.dumps(result) for i, result in enumerate(results)}
    fake.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\n"
        "words = sys.argv[1:]\nassert words[0] == 'grade' and words[-2:] == ['--only', '5']\n"
        "assert len(os.environ['COURSE_SEED']) == 32\n"
        "out = pathlib.Path(words[words.index('--out') + 1]) / 'gradescope'\n"
        f"for name, text in {given!r}.items():\n"
        "    (out / name).parent.mkdir(parents=True)\n    (out / name).write_text(text)\n"
        f"sys.exit({status})\n"
    )
    fake.chmod(0o755)
    python = fake.with_name("python")
    if not python.exists():
        python.symlink_to(sys.executable)
    env = os.environ | {"AUTOGRADER": str(autograder)}
    done = subprocess.run(["bash", autograder / "source" / "run_autograder"], env=env)
    target = autograder / "results" / "results.json"
    assert (done.returncode == 0) == target.exists() == (told is not None)
    if told is not None:
        result = json.loads(target.read_text("utf-8"))
        assert result["output"].startswith(told["output"])
        assert result["score"] == told["score"]
    assert stat.S_IMODE((autograder / "source").stat().st_mode) == 0o700


# --- the page ------------------------------------------------------------------------------------


def test_the_page_shows_the_table_of_attacks_as_the_tests_run_them():
    pattern = r"<!-- attacks: printed by tests/helpers/attacks.py -->\n(.*?)\n<!-- end -->"
    assert re.findall(pattern, PAGE, re.DOTALL) == [table()]


def test_the_page_names_options_and_files_that_exist(capsys):
    for line in re.findall(r"^(?:\.venv/bin/)(course .*)$", PAGE, re.MULTILINE):
        _, name, *rest = line.split()
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = capsys.readouterr().out
        assert all(word in known for word in rest if word.startswith("--")), line
    for place in re.findall(r"(?:deploy|tests)/[\w./]*\w", PAGE):
        assert (ROOT / place).exists(), place
