"""The README's first command: it opens a chapter, and from there one reaches the exercises."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import ROOT, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of what `make lab` serves (in the environment that runs this test)."""
    folder = tmp_path_factory.mktemp("make_lab")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--no-browser --allow-root --port={port} --ip=127.0.0.1 --IdentityProvider.token="
    # Without the rule that installs: this environment is there already.
    command = ["make", "lab", "--old-file=.venv/lab-ready", f"BIN={Path(sys.executable).parent}",
               f"LAB_ARGS={options} --ServerApp.port_retries=0"]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "JUPYTER_CONFIG_DIR": str(folder / "config")},
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/lab", server, folder / "log")
        yield f"http://127.0.0.1:{port}/lab/tree"
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


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
