"""Ways in: links for JupyterHub, Binder, dev container, citation file, and the README's picture.

What was tried by hand, and what was not, stands in docs/teaching/jupyterhub.md.
"""

import importlib.util
import json
import os
import re
import subprocess
from dataclasses import replace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rattler import MatchSpec

from course_tools.cli import main
from course_tools.links import APPS, course_link, course_table, notebooks, pull_link
from course_tools.project import load_project
from course_tools.release.student_tree import COPIED, environment
from tests.helpers.paths import ROOT

HUB = "https://hub.example.edu"
PAGE = (ROOT / "docs" / "teaching" / "jupyterhub.md").read_text("utf-8")


@pytest.fixture(scope="module")
def project():
    return replace(load_project(ROOT), address="https://github.com/OWNER/NAME")


def parts_of(link):
    """What nbgitpuller is told: its address, and each value as a server reads it."""
    url = urlsplit(link)
    values = parse_qs(url.query, strict_parsing=True, keep_blank_values=True)
    assert all(len(v) == 1 for v in values.values())
    return link.partition("?")[0], {name: v[0] for name, v in values.items()}


# --- links ---------------------------------------------------------------------------------------


def test_a_link_has_the_form_that_nbgitpuller_documents(project):
    link = course_link(project, HUB, "exercises/05_kv_cache.ipynb", branch="main")
    address, values = parts_of(link)
    assert address == "https://hub.example.edu/hub/user-redirect/git-pull"
    assert values == {
        "repo": "https://github.com/OWNER/NAME",
        "urlpath": "lab/tree/NAME/exercises/05_kv_cache.ipynb",
        "branch": "main",
    }


@pytest.mark.parametrize(
    ("app", "notebook", "urlpath"),
    [
        ("lab", "notebooks/02_tril_mask.ipynb", "lab/tree/NAME/notebooks/02_tril_mask.ipynb"),
        ("classic", "notebooks/02_tril_mask.ipynb", "notebooks/NAME/notebooks/02_tril_mask.ipynb"),
        ("lab", None, "lab/tree/NAME/notebooks"),
        ("classic", None, "tree/NAME/notebooks"),
    ],
)
def test_each_application_opens_files_and_folders_in_its_own_place(project, app, notebook, urlpath):
    _, values = parts_of(course_link(project, HUB, notebook, app=app))
    assert values == {"repo": project.address, "urlpath": urlpath}


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
folder_or_file = st.lists(text.filter(lambda t: "/" not in t), min_size=1, max_size=3)


@given(folder_or_file, folder_or_file, st.sampled_from(sorted(APPS)), st.text("aZ09_-", min_size=1))
def test_whatever_the_names_are_the_hub_reads_back_what_was_meant(where, path, app, branch):
    repo, path = f"https://git.example.org/{'/'.join(where)}", "/".join(path)
    branch = f"b{branch}"
    link = pull_link(HUB, repo, path, app=app, branch=branch)
    assert re.fullmatch(r"[!-~]+", link) and not set("<>()[]|\"' +") & set(link)  # fit for Markdown
    _, values = parts_of(link)
    assert (values["repo"], values["branch"]) == (repo, branch)
    # The server is sent to `urlpath`, which is an address itself: a "#" or "?" in it is quoted.
    opened = urlsplit(f"{HUB}/user/ada/{values['urlpath']}")
    assert not opened.query and not opened.fragment
    opener = APPS[app][0 if path.endswith(".ipynb") else 1]
    assert unquote(opened.path) == f"/user/ada/{opener}/{where[-1]}/{path}"


@pytest.mark.parametrize(
    ("given_hub", "start"),
    [
        ("https://hub.example.edu/", "https://hub.example.edu/hub/"),
        ("http://localhost:8000", "http://localhost:8000/hub/"),
        ("https://example.edu/jupyter/", "https://example.edu/jupyter/hub/"),
        ("https://[::1]:8000", "https://[::1]:8000/hub/"),
    ],
)
def test_a_hub_may_have_a_port_a_folder_and_a_slash_at_the_end(project, given_hub, start):
    assert course_link(project, given_hub).startswith(f"{start}user-redirect/git-pull?")


@pytest.mark.parametrize(
    "hub",
    [
        *("", "hub.example.edu", "ftp://hub.example.edu", "https://", "https://a b", "https://a:x"),
        *(f"{HUB}/hub", f"{HUB}/hub/home", f"{HUB}/user/ada/lab", f"{HUB}/b c"),
        *(f"{HUB}?a=1", f"{HUB}#a", f"{HUB}/?", "https://[::1", "https://a:pw@hub.example.edu"),
    ],
)
def test_what_is_no_address_of_a_hub_is_refused_with_an_example(project, hub):
    with pytest.raises(ValueError, match="hub: expected the address of a JupyterHub without /hub"):
        course_link(project, hub)


@pytest.mark.parametrize(
    "branch",
    ["", "-x", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "a/", "a.lock"],
)
def test_what_git_takes_for_no_branch_is_refused(project, branch):
    with pytest.raises(ValueError, match="branch: expected the name of a branch"):
        course_link(project, HUB, branch=branch)
    command = ["git", "check-ref-format", "--branch", branch]
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_a_tag_a_foreign_notebook_and_an_unknown_application_are_refused(project):
    with pytest.raises(ValueError, match=f"branch: {project.tag} is a tag"):
        course_link(project, HUB, branch=project.tag)
    with pytest.raises(ValueError, match=r"notebook: expected one of notebooks/01_contract\.ipynb"):
        course_link(project, HUB, "solutions/05_kv_cache.ipynb")
    with pytest.raises(ValueError, match="app: expected one of lab, classic; got 'vim'"):
        course_link(project, HUB, app="vim")
    with pytest.raises(ValueError, match="repo: expected an address that ends in"):
        pull_link(HUB, "", "a.ipynb")


def test_links_lead_to_notebooks_that_students_have(project):
    paths = notebooks(project)
    assert len(paths) == len(set(paths)) >= 16
    assert all((ROOT / path).is_file() for path in paths)
    exercises = {f"exercises/{file.name}" for file in (ROOT / "exercises").glob("*.ipynb")}
    assert {path for path in paths if path.startswith("exercises/")} == exercises


def test_the_table_has_each_notebook_once_and_is_markdown(project):
    head, rule, *rows = course_table(project, HUB, app="classic", branch="main").splitlines()
    assert head.count("|") == rule.count("|") == 4 and len(rows) == len(project.chapters)
    links = [link for row in rows for link in re.findall(r"\]\(([^)\s]+)\)", row)]
    opened = [parts_of(link)[1]["urlpath"].removeprefix("notebooks/NAME/") for link in links]
    assert sorted(opened) == sorted(notebooks(project))
    assert all(row.count("|") == 4 for row in rows)


def test_the_command_prints_the_link_alone_and_says_what_is_wrong(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["link", "--hub", HUB, "--notebook", "exercises/05_kv_cache.ipynb"]) == 0
    told = capsys.readouterr()
    expected = course_link(load_project(ROOT), HUB, "exercises/05_kv_cache.ipynb")
    assert told.out == f"{expected}\n"
    placeholder = "/OWNER/" in load_project(ROOT).address
    assert ("course configure --address" in told.err) == placeholder
    assert main(["link", "--hub", HUB, "--all"]) == 0
    assert capsys.readouterr().out.startswith("| | Chapter | Exercises |\n")
    assert main(["link", "--hub", "hub"]) == 2
    assert "course link: hub: expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["link", "--hub", HUB, "--all", "--notebook", "exercises/05_kv_cache.ipynb"])


def test_the_page_shows_the_link_that_its_command_prints(project):
    link = course_link(project, HUB, "exercises/05_kv_cache.ipynb")
    assert f"--hub {HUB} --notebook exercises/05_kv_cache.ipynb\n" in PAGE
    assert f"\n{link}\n" in PAGE
    for name in re.findall(r"archive/refs/tags/(\S+)\.zip|NAME/(v[\d.]+)\?", PAGE):
        assert project.tag in name


# --- Binder and the dev container ----------------------------------------------------------------


def test_binder_installs_what_students_need_with_a_torch_without_cuda(project):
    binder = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text("utf-8"))
    students = yaml.safe_load(environment(project))
    *specs, by_pip = binder["dependencies"]
    *wanted, pip_wanted = students["dependencies"]
    python = next(spec for spec in specs if spec.startswith("python "))
    floor = next(spec for spec in wanted if spec.startswith("python "))
    assert re.fullmatch(r"python =3\.\d+", python) and floor == "python >=3.11"
    assert float(python.partition("=3.")[2]) >= 11
    names = [re.sub(r"^pytorch ", "pytorch-cpu ", spec) for spec in wanted if spec != floor]
    assert sorted(spec for spec in specs if spec != python) == sorted(names)
    assert all(MatchSpec(spec, strict=True).name for spec in specs)
    # postBuild installs the course itself, in the repository's root.
    assert [*by_pip["pip"], "-e ."] == pip_wanted["pip"]
    assert binder["channels"] == ["conda-forge"]


def test_binders_last_step_is_shell_and_installs_the_course_alone():
    script = ROOT / ".binder" / "postBuild"
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text("utf-8").startswith("#!") and os.access(script, os.X_OK)
    assert "pip install --no-deps --editable .\n" in script.read_text("utf-8")


def test_the_dev_container_runs_a_rule_of_the_students_makefile_in_an_image_that_has_its_tools():
    facts = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    (rule,) = re.fullmatch(r"make (\S+)", facts["postCreateCommand"]).groups()
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{re.escape(rule)}:", makefile, re.MULTILINE)
    assert facts["waitFor"] == "postCreateCommand"
    interpreter = facts["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv/bin/python"
    image = (ROOT / ".devcontainer" / facts["build"]["dockerfile"]).read_text("utf-8")
    assert re.search(r"^FROM python:3\.1[1-9]-", image, re.MULTILINE)
    assert re.search(r" git make ", image)
    assert re.search(rf"^RUN useradd .* {facts['remoteUser']}$", image, re.MULTILINE)


def test_students_get_the_files_that_open_the_course_elsewhere():
    ways = {p.relative_to(ROOT).as_posix() for f in (".binder", ".devcontainer")
            for p in (ROOT / f).iterdir()}  # fmt: skip
    assert ways | {"CITATION.cff"} <= set(COPIED)
    assert all((ROOT / name).is_file() for name in COPIED)


# --- citation and README -------------------------------------------------------------------------


def test_the_citation_file_names_this_title_and_these_licences():
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert facts["cff-version"] == "1.2.0" and facts["message"]
    assert f"# {facts['title']}\n" in readme
    assert facts["license"] == ["MIT", "CC-BY-4.0"]
    (author,) = facts["authors"]
    assert author["name"].lower().removeprefix("the ") in (ROOT / "LICENSE").read_text("utf-8")
    assert "](CITATION.cff)" in readme


def test_the_readmes_screenshot_is_described_by_its_own_numbers():
    spec = importlib.util.spec_from_file_location("shot", ROOT / "docs" / "images" / "explorer.py")
    shot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shot)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"![{shot.alt_text()}](docs/images/explorer.png)" in readme
    assert (ROOT / "docs" / "images" / "explorer.png").stat().st_size < 200_000
