'''What all explorers share: states that are checked, a static view, files without a build.

An explorer is a Python class and a JavaScript file of its own on top of `static/core.js`:

    class MaskExplorer(Explorer):
        """What it shows, its arguments, and an example."""

        script = "mask"                                # static/mask.js, and mask.css if it is there
        row = State(0, position_of_token)              # e.row = 2; e.observe(f, "row")
        view = State("mask", one_of("mask", "weights"))

        def __init__(self, tokens, ..., *, row=0, view="mask"):
            self.tokens = ...                          # what the checks of the states look at
            super().__init__({"tokens": ..., "weights": numbers(weights)}, row=row, view=view)

        def words(self) -> str: ...                    # the state in words: text/plain, alt text
        def picture(self) -> str: ...                  # HTML for paper and GitHub

`data` holds every number that a click can show, so no click needs the kernel. A notebook keeps one
HTML output (`page`): the static view, which its own script makes live, with and without a kernel.
While there is one, Python and the view follow each other (`bridge`).
'''

import collections
import html
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import traitlets
from numpy.typing import ArrayLike

from course_lib.explorers.bridge import Carrier, connect
from course_lib.explorers.page import fingerprint, page
from course_lib.lesson import listed

#: More cells than this squared are too small to hit and too slow to draw.
MOST_TOKENS = 64
#: A longer token is cut: it would push everything else off the page.
_LONGEST = 32

Check = Callable[[Any, str, Any], Any]

#: How many explorers with the same data were shown.
_KEYS: collections.Counter[str] = collections.Counter()


class State(traitlets.TraitType):  # type: ignore[type-arg]  # not generic in Colab's traitlets
    """State that an explorer shares with its views: a default value and a check.

    Args:
        default: its first value.
        check: takes the explorer, the state's name and a value; returns the value to keep (plain
            JSON) or raises ValueError or TypeError. See `one_of`, `whole`, `token`, `flag`.
    """

    def __init__(self, default: Any, check: Check) -> None:
        super().__init__(default_value=default, allow_none=True)
        self.check = check

    def _validate(self, obj: Any, value: Any) -> Any:
        return self.check(obj.asked or obj, str(self.name), value)


def one_of(*values: str) -> Check:
    """A check: the state is one of these texts, or of the explorer's own subset `<name>s`."""

    def check(explorer: Any, name: str, value: Any) -> str:
        allowed = getattr(explorer, f"{name}s", values)
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}; got {value!r}")
        return value

    return check


def whole(least: int, most: Callable[[Any], int], *, optional: bool = False) -> Check:
    """A check: the state is a whole number from `least` to `most(explorer)` (or None)."""

    def check(explorer: Any, name: str, value: Any) -> int | None:
        if value is None and optional:
            return None
        end = most(explorer)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}: expected a whole number; got {type(value).__name__}")
        if not least <= value <= end:
            raise ValueError(f"{name}: expected a whole number from {least} to {end}; got {value}")
        return int(value)

    return check


def token(*, optional: bool = False) -> Check:
    """A check: the state is a position in `explorer.tokens`, or the text of one (the first)."""

    def check(explorer: Any, name: str, value: Any) -> int | None:
        names = explorer.tokens
        if value is None and optional:
            return None
        if isinstance(value, str):
            ways = value, visible_text(value)
            places = [i for i, n in enumerate(names) if n in (*ways, _numbered(value, i))]
            if places:
                return places[0]
        number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if number and 0 <= value < len(names):
            return int(value)
        shown = [*names[:8], "..."] if len(names) > 8 else names
        raise ValueError(
            f"{name}: expected a position from 0 to {len(names) - 1} or one of the tokens "
            f"{', '.join(shown)}; got {value!r}"
        )

    return check


def flag(_explorer: Any, name: str, value: Any) -> bool:
    """A check: the state is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False; got {type(value).__name__}")
    return bool(value)


class _With:
    """An explorer as it would be with these states, for checks that look at more than one."""

    def __init__(self, explorer: Any, states: dict[str, Any]) -> None:
        self.__dict__.update(states, _explorer=explorer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._explorer, name)


class Explorer(traitlets.HasTraits):
    """A picture to touch, with a static view; subclasses follow the module's text.

    Args:
        data: what JavaScript shows: JSON (see `numbers`).
        states: first values of the states.

    Raises:
        TypeError: for a state that the explorer does not have.
        ValueError: for a value that its check refuses.
    """

    #: The subclass's JavaScript file in static/, without the suffix.
    script = ""

    def __init__(self, data: dict[str, Any], **states: Any) -> None:
        super().__init__()
        self.data = data
        #: The states that are being set together, for checks that look at more than one.
        self.asked: _With | None = None
        self._key: str | None = None
        self._carrier: Carrier | None = None
        self.update(**states)

    @classmethod
    def states(cls) -> list[str]:
        """The names of the states that Python and the views share."""
        return [name for name, trait in cls.class_traits().items() if isinstance(trait, State)]

    def values(self) -> dict[str, Any]:
        """The states as they are now."""
        return {name: getattr(self, name) for name in self.states()}

    def update(self, **states: Any) -> None:
        """Change several states at once: they are checked together, and all are kept or none.

        Args:
            states: new values.

        Raises:
            TypeError: for a state that the explorer does not have.
            ValueError: for a value that its check refuses.
        """
        for name in states:
            if name not in self.states():
                raise TypeError(f"{name}: expected one of the states {', '.join(self.states())}")
        asked = _With(self, states)
        for name, value in states.items():
            state: Any = self.traits()[name]
            state.check(asked, name, value)
        self.asked = asked
        try:
            with self.hold_trait_notifications():
                for name, value in states.items():
                    setattr(self, name, value)
        finally:
            self.asked = None

    def words(self) -> str:
        """What the explorer shows now, in words; the same words for the same state."""
        raise NotImplementedError

    def picture(self) -> str:
        """What paper and GitHub show: HTML that needs nothing but itself; subclasses draw more."""
        return f"<p>{html.escape(self.words())}</p>"

    @property
    def key(self) -> str:
        """What its views are known by in a page: made of what it shows, and not of chance."""
        if self._key is None:
            same = f"{self.script}-{fingerprint(self.data)}"
            _KEYS[same] += 1
            self._key = f"{same}-{_KEYS[same]}"
        return self._key

    def live_html(self) -> str:
        """What a notebook keeps: the static view, and the script that makes it live."""
        return page(self.script, self.key, self.picture(), self.data, self.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.words()}"

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, str]:
        if self._carrier is None:
            self._carrier = connect(self, self.key)
        return {"text/plain": repr(self), "text/html": self.live_html()}


def numbers(array: ArrayLike | torch.Tensor) -> list[Any]:
    """Nested lists for `data`; JSON has no NaN and no infinity, so these become texts."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().double().numpy()
    array = np.asarray(array)
    if array.dtype == bool:
        return array.astype(int).tolist()
    return _json(array.astype(float).tolist())


def labels(tokens: Sequence[Any], most: int = MOST_TOKENS) -> tuple[str, ...]:
    """Tokens as labels, checked: blanks become visible, long ones are cut, equal ones numbered.

    >>> labels(["the", "cat", " ", "the"])
    ('the (0)', 'cat', "' '", 'the (3)')

    Raises:
        TypeError: for one text instead of a sequence of them.
        ValueError: for no token, or more than an explorer can show.
    """
    if isinstance(tokens, str):
        raise TypeError("tokens: expected a sequence of tokens; got one text (split it first)")
    names = [visible_text(t) for t in tokens]
    if not 1 <= len(names) <= most:
        raise ValueError(f"tokens: expected 1 to {most} of them; got {len(names)}")
    times = collections.Counter(names)
    return tuple(_numbered(n, i) if times[n] > 1 else n for i, n in enumerate(names))


def visible_text(token: Any) -> str:
    """One token as text that can be seen: nothing, blanks and control signs as in code."""
    text = str(token)
    kinds = {unicodedata.category(c) for c in text if c not in "\u200c\u200d"}  # joiners of emoji
    if not text.strip() or kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        text = repr(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def chosen(names: Sequence[str], which: Iterable[bool]) -> str:
    """The names that are chosen, in words; of more than eight, runs become "a to z"."""
    places = [i for i, on in enumerate(which) if on]
    if len(places) <= 8:
        return listed([names[i] for i in places])
    parts = []
    for _, group in itertools.groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
        run = [names[i] for _, i in group]
        parts += run if len(run) < 4 else [f"{run[0]} to {run[-1]}"]
    return listed(parts)


def _numbered(name: str, position: int) -> str:
    return f"{visible_text(name)} ({position})"


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(x) for x in value]
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value
