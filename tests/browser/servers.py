"""Notebook servers for the tests in this folder."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

from tests.helpers.paths import ROOT


@contextmanager
def serve(command, folder, page, *, cwd=None, **settings):
    """Start a server and yield its address; its log and configuration are in `folder`.

    Args:
        command: takes the options of the server, and returns what is to be started.
        folder: what is served, and where all that it writes goes.
        page: which page answers when it is there, such as "lab".
        cwd: where it starts; `folder` if not given.
        settings: more variables of its environment.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    own = {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command(options), cwd=cwd or folder, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, **own, **settings},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/{page}", server, folder / "log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _wait_for(address, server, log):
    """Until the server answers; an error with its log if it ends, or after a minute."""
    for _ in range(120):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{log.read_text('utf-8')}")
