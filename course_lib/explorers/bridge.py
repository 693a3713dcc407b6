"""Python and the views of an explorer hear of each other while a kernel is alive.

A view is markup with a script of its own (`page`) and lives without any of this. The carrier is a
widget that is never shown: JupyterLab and the Notebook make its other half in the page as soon as
it exists here, and nothing of it is saved, so nothing is missed when the notebook is opened again.
Colab has a call for this direction only: Python hears of clicks, and what Python changes is seen
when the explorer is shown again. In VS Code neither is heard of.
"""

import sys
from importlib import import_module
from typing import Any, Protocol
from weakref import WeakValueDictionary

import anywidget
import traitlets

from course_lib.explorers.page import EVENT, read


class Shared(Protocol):
    """What is connected: an `Explorer`."""

    def values(self) -> dict[str, Any]:
        """Its states."""

    def update(self, **states: Any) -> None:
        """Change some of them, checked."""

    def observe(self, handler: Any, names: list[str]) -> None:
        """Call a function after each change."""


class Carrier(anywidget.AnyWidget):
    """States on their way between an explorer and its views."""

    _esm = read("bridge.js")
    key = traitlets.Unicode().tag(sync=True)
    states = traitlets.Dict().tag(sync=True)


_ON_COLAB: WeakValueDictionary[str, Shared] = WeakValueDictionary()


def connect(explorer: Shared, key: str) -> Carrier | None:
    """Let an explorer and the views with this key follow each other from now on.

    Returns:
        What carries the states; None on Colab, which calls `heard_on_colab`.
    """
    if "google.colab" in sys.modules:
        _ON_COLAB[key] = explorer
        import_module("google.colab.output").register_callback(EVENT, heard_on_colab)
        return None
    carrier = Carrier(key=key, states=explorer.values())
    carrier.observe(lambda change: explorer.update(**change["new"]), "states")

    def say(_change: Any) -> None:
        carrier.states = explorer.values()

    explorer.observe(say, list(explorer.values()))
    return carrier


def heard_on_colab(key: str, states: dict[str, Any]) -> None:
    """What view.js calls after each change there."""
    if key in _ON_COLAB:
        _ON_COLAB[key].update(**states)
