"""The version stands once; `course build` writes it wherever else it is shown."""

import shutil
from dataclasses import replace

import pytest
import yaml

from course_lib import __version__
from course_tools.build.version import PLACES, write_version
from course_tools.project import load_project
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.fast


def lay_out(folder):
    """A copy of every file that shows the version."""
    files = [file for place in PLACES for file in ROOT.glob(place)]
    for file in files:
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return files


def test_every_place_shows_the_version_of_pyproject():
    project = load_project(ROOT)
    assert write_version(project, check=True) == []
    assert project.version == __version__


def test_a_new_version_is_written_to_every_place_and_nothing_else_changes(tmp_path):
    files = lay_out(tmp_path)
    project = replace(load_project(ROOT), root=tmp_path, version="12.3.4")
    stale = write_version(project, check=True)
    assert len(stale) > len(PLACES), "some places are several files"
    assert write_version(project, check=False) == []
    assert write_version(project, check=True) == []
    changed = 0
    for file in files:
        old, new = (f.read_text("utf-8") for f in (file, tmp_path / file.relative_to(ROOT)))
        assert new.replace("12.3.4", __version__) == old
        changed += new != old
    assert changed == len(stale)
    assert yaml.safe_load((tmp_path / "CITATION.cff").read_text("utf-8"))["version"] == "12.3.4"
    job = (tmp_path / "deploy" / "kubernetes" / "grade.yaml").read_text("utf-8")
    assert "/causal-attention-grader:12.3.4\n" in job


def test_other_numbers_with_dots_are_left_alone(tmp_path):
    text = "torch 2.13.0, version 2 of 0.1.0, `v1`, python=3.11.5, 10.1.0.1\n"
    (tmp_path / "README.md").write_text(text, "utf-8")
    project = replace(load_project(ROOT), root=tmp_path, version="12.3.4")
    assert write_version(project, check=True) == []
