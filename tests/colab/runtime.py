"""The emulated runtime: an environment with Colab's versions, and what is in it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .pins import HEAVY, PINS, pins

_STUB = Path(__file__).with_name("stub")
#: Variables of this process that a runtime on another machine would not have.
_OURS = re.compile(r"PYTHON|COURSE|JUPYTER|IPYTHON|VIRTUAL_ENV|MAKE|ATEN|MPL")


class Runtime:
    """An environment that stands for Colab's.

    Args:
        folder: where it is, or will be made.
        subset: without torch, triton and what else is heavy; this environment's torch stands in,
            and so does this Python.

    Attributes:
        python: its interpreter.
        subset: as given.
    """

    def __init__(self, folder: Path, *, subset: bool = False) -> None:
        self.folder = folder.resolve()
        self.subset = subset
        self.python = self.folder / "bin" / "python"

    def make(self) -> None:
        """Set it up if the pins have changed since it was, or it never was.

        Raises:
            FileNotFoundError: without a Python of Colab's version.
        """
        heavy = HEAVY if self.subset else ()
        there = pins(PINS.read_text("utf-8")).items()
        lines = [f"{name}=={version}" for name, version in there if name not in heavy]
        ready = self.folder / "ready"
        if ready.is_file() and ready.read_text("utf-8").splitlines() == lines:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        base = sys.executable if self.subset else str(_colabs_python())
        subprocess.run([base, "-m", "venv", str(self.folder)], check=True)
        install = [str(self.python), "-m", "pip", "install", "--quiet", "--no-warn-script-location"]
        subprocess.run([*install, *lines], check=True)
        site = Path(self.ask("import sysconfig; print(sysconfig.get_path('purelib'))"))
        shutil.copytree(_STUB, site, dirs_exist_ok=True)
        start = ["import google.colab.output"]  # Colab's kernel has imported it before any cell
        if self.subset:
            start.insert(0, str(_borrowed_torch(self.folder / "borrowed")))
        (site / "zz_colab.pth").write_text("\n".join(start) + "\n", "utf-8")
        ready.write_text("\n".join(lines) + "\n", "utf-8")

    def environment(self, scratch: Path) -> dict[str, str]:
        """The variables for a process in it; `scratch` takes the place of the home's settings."""
        kept = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        return kept | {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "IPYTHONDIR": str(scratch / "ipython"),
            "JUPYTER_CONFIG_DIR": str(scratch / "jupyter"),
            "PIP_NO_CACHE_DIR": "1",  # a fresh machine fetches what it needs
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "COLAB_RELEASE_TAG": "emulated",
            "XDG_CACHE_HOME": str(scratch / "cache"),  # for the real model
        }

    def freeze(self) -> list[str]:
        """The lines of `pip freeze`, pip and setuptools included."""
        done = subprocess.run(
            [str(self.python), "-m", "pip", "freeze", "--all", "--disable-pip-version-check"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    def forget_what_was_added(self) -> None:
        """Make it as a fresh runtime is."""
        remove = [str(self.python), "-m", "pip", "uninstall", "--quiet", "--yes"]
        subprocess.run([*remove, "course_lib", "gguf"], check=True, capture_output=True)

    def ask(self, code: str) -> str:
        """What a line of Python prints in it."""
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{code}: {done.stderr}")
        return done.stdout.strip()


def _colabs_python() -> Path:
    """A Python of the version that pins.txt names; COLAB_PYTHON says where."""
    version = re.search(r"^# --- python (\S+) ---", PINS.read_text("utf-8"), re.MULTILINE)[1]
    for candidate in _candidates(version):
        ask = [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
        try:
            told = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
        except OSError:
            continue
        if told == version:
            return Path(candidate)
    raise FileNotFoundError(f"no Python {version} on the PATH or in pyenv; COLAB_PYTHON names one")


def _candidates(version: str) -> Iterator[str]:
    if given := os.environ.get("COLAB_PYTHON"):
        yield given
    yield f"python{version}"
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        places = Path(root, "versions").glob(f"{version}.*/bin/python")
        yield from sorted(str(place) for place in places)


def _borrowed_torch(folder: Path) -> Path:
    """A folder with links to this environment's torch and to what torch needs, except NumPy."""
    folder.mkdir()
    site = Path(sysconfig.get_path("purelib"))
    names, seen = ["torch", "triton"], set(pins(PINS.read_text("utf-8"))) - set(HEAVY)
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # needed under another marker
            continue
        for top in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
            if top != "__pycache__" and not (folder / top).exists():
                (folder / top).symlink_to(site / top)
        wanted = (line for line in package.requires or () if "extra ==" not in line)
        names += [re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in wanted]
    return folder
