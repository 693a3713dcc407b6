"""A house for contributors: what guides, hooks and workflows name is there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.fast

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PROGRAMS = Path(sys.executable).parent


def read(name):
    return (ROOT / name).read_text("utf-8")


def run(*command, **how):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **how)


# --- the workflow, which has not run on GitHub ---------------------------------------------------


def follows_githubs_schema(file):
    schema = ("--builtin-schema", "vendor.github-workflows")
    return run(sys.executable, "-m", "check_jsonschema", *schema, file)


def test_the_workflow_follows_githubs_schema(tmp_path):
    done = follows_githubs_schema(WORKFLOW)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "ci.yml"
    broken.write_text(read(WORKFLOW).replace("runs-on: ubuntu-latest", "runs_on: ubuntu", 1))
    assert follows_githubs_schema(broken).returncode == 1


def test_the_workflow_runs_the_parts_of_ci_and_the_students_tree_elsewhere():
    jobs = yaml.safe_load(read(WORKFLOW))["jobs"]
    (parts,) = re.findall(r"^parts=\((.+)\)$", read(".ci/run"), re.MULTILINE)
    assert jobs["suites"]["strategy"]["matrix"]["part"] == parts.split()
    rules = re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)
    assert {*parts.split(), "check"} <= set(rules)
    assert jobs["students"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]


def test_ci_runs_the_parts_that_it_is_given(tmp_path):
    for name in ("make", "chromium", "bwrap", "openssl"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "ran $*"\n')
        program.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    two = run("bash", ".ci/run", "test-site", "test", env={"PATH": path})
    assert two.stdout.splitlines() == ["ran test-site", "ran test"]
    assert run("bash", ".ci/run", env={"PATH": path}).stdout.startswith("ran test\n")


# --- hooks, line ends, what git leaves alone -----------------------------------------------------


def test_every_hook_is_valid_and_runs_a_program_that_is_installed():
    config = ROOT / ".pre-commit-config.yaml"
    assert run(sys.executable, "-m", "pre_commit", "validate-config", config).returncode == 0
    hooks = [hook for repo in yaml.safe_load(read(config))["repos"] for hook in repo["hooks"]]
    assert len(hooks) > 4
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/") and (PROGRAMS / Path(program).name).exists()


def test_scripts_keep_their_line_ends_when_git_would_change_them(tmp_path):
    """As in a checkout on Windows, where git turns LF into CRLF unless it is told otherwise."""
    scripts = (".ci/run", ".binder/postBuild", "deploy/gradescope/setup.sh", "Makefile")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in (".gitattributes", *scripts):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git = ("git", "-C", tmp_path, "-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    subprocess.run([*git, "add", "--all"], check=True)
    for name in scripts:
        (tmp_path / name).unlink()
    subprocess.run([*git, "checkout", "--quiet", "--", "."], check=True)
    for name in scripts:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


def paths_of_documented_commands():
    """Where the commands of the class kit take students' work from, and put what comes of it."""
    pages = [*(ROOT / "docs" / "teaching").glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    found = re.findall(r"course grade (\S+)[^\n`]*? --out (\S+)", text)
    found += [(zipped,) for zipped in re.findall(r"make_zip\.py \d (\S+)", text)]
    return sorted({path for paths in found for path in paths if re.match(r"[a-z]", path)})


def test_git_leaves_alone_what_students_hand_in_and_what_they_get_back():
    paths = paths_of_documented_commands()
    assert {"submissions.zip", "submissions", "marks", "autograder_5.zip"} <= set(paths)
    for path in paths:
        # A folder is ignored as one, so that what lies in it is too.
        name = path if path.endswith(".zip") else f"{path}/"
        assert run("git", "check-ignore", "--no-index", name).returncode == 0, path
    for path in run("git", "ls-files").stdout.splitlines()[::10]:
        assert run("git", "check-ignore", "--no-index", path).returncode == 1, path


# --- the guide -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_the_guide_names_is_there(page):
    named = re.findall(r"`([\w.]+/[\w./-]*|[\w-]+\.(?:md|toml|txt|yml|cff))`", read(page))
    examples = re.compile(r"08_last_word|chapter_8|NAME|^\.\.")
    kept = [name for name in named if not examples.search(name)]
    assert len(kept) > 2
    for name in kept:
        # Some are files of a folder that the same sentence names.
        places = [ROOT / name, *ROOT.glob(f"solutions/*/{name}")]
        assert any(place.exists() for place in places), f"{page}: {name}"


def test_every_command_of_make_that_a_page_names_is_a_rule():
    rules = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", read(page), re.MULTILINE))
        assert named and named <= rules, page
