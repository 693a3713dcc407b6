"""A JupyterLab and a real browser for the tests in this folder."""

import shutil
import sys

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.servers import serve
from tests.helpers.paths import ROOT

#: No sandbox, because CI runs as root; the rest keeps the browser from calling home.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium; skipped (in CI: failed) where none is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs a Chromium on the PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    for part in ("notebooks", "exercises"):
        shutil.copytree(ROOT / part, folder / part)

    def command(options):
        more = ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
        return [sys.executable, "-m", "jupyterlab", *options, *more]

    with serve(command, folder, "lab", COURSE_QUIET="0") as address:
        yield f"{address}/lab"
