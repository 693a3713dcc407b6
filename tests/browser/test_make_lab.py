"""The README's first command: it opens a chapter, and from there one reaches the exercises."""

import sys
from pathlib import Path

import pytest

from tests.browser.servers import serve
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of what `make lab` serves (in the environment that runs this test)."""

    def command(options):
        given = " ".join([*options, "--IdentityProvider.token="])
        # Without the rule that installs: this environment is there already.
        tools = f"BIN={Path(sys.executable).parent}"
        return ["make", "lab", "--old-file=.venv/lab-ready", tools, f"LAB_ARGS={given}"]

    with serve(command, tmp_path_factory.mktemp("make_lab"), "lab", cwd=ROOT) as address:
        yield f"{address}/lab/tree"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("notebooks/01_contract.ipynb", "1. The contract"),
        ("exercises/02_tril_mask.ipynb", "2. The tril mask: exercises"),
    ],
)
def test_chapters_and_exercises_open_from_the_one_command(chromium, served, name, words):
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{served}/{name}?reset")
    page.get_by_role("heading", name=words).first.wait_for(timeout=30_000)
    page.close()
