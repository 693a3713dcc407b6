"""What visible checks ask of an answer apart from its values (compare="property:NAME").

Each is a function of the case and of what came back that returns None if it holds, else the
sentence that the student reads. Students can read this file: it holds no answer.
"""

import numpy as np

from course_lib.checks.compare import as_array
from course_lib.checks.script import Case, Outcome
from course_lib.example import TOKENS
from course_lib.masks import causal


class Mistake(str):
    """A sentence about a property that does not hold, with the misconception that it points at.

    Args:
        name: of a `Misconception` of the exercise; the report shows the tutor's words for it.
        sentence: what the student reads about this output.
    """

    name: str

    def __new__(cls, name: str, sentence: str) -> "Mistake":
        """See the class."""
        self = super().__new__(cls, sentence)
        self.name = name
        return self


def runs(case: Case, outcome: Outcome) -> str | None:
    """The calls return; nothing is asked of what they return."""
    return None


def enough_tries(case: Case, outcome: Outcome) -> str | None:
    """1.3: whoever changes one position at a time does so often, far, and to more than zeros."""
    x = np.asarray(case.calls[0].args[1])
    tries, far, zeros = np.zeros(len(x), dtype=int), 0.0, True
    for record in outcome.callbacks.get("pairs", ()):
        changed = np.asarray(record[0])
        rows = (changed != x).any(axis=1) if changed.shape == x.shape else np.ones(len(x), bool)
        if rows.sum() > 1:
            return None  # another method
        tries += rows
        if rows.any():
            far = max(far, float(np.abs(changed - x).max()))
            zeros &= not changed[rows].any()
    few = int(tries.argmin())
    if tries.any() and zeros:
        return Mistake("set to zero", "you never put anything but zeros in a position.")
    if tries.all() and far < 0.05:
        return Mistake("steps too small", f"you never changed a number by more than {far:.2g}.")
    if tries[few] >= 5:
        return None
    times = {0: "never", 1: "once", 2: "twice"}.get(int(tries[few]), f"{tries[few]} times")
    return Mistake(
        "too few tries",
        f"you changed position {few} {times}. A dependence may show in one try of three only.",
    )


def keeps_precision(case: Case, outcome: Outcome) -> str | None:
    """Chapters 3 and 4: floating results are as wide as the first argument, or wider."""
    given = np.asarray(case.calls[0].args[0]).dtype
    results = outcome.values[0]
    several = isinstance(results, (tuple, list)) and any(isinstance(r, np.ndarray) for r in results)
    for result in results if several else (results,):
        dtype = np.asarray(result).dtype
        if dtype.kind == "f" and dtype.itemsize < given.itemsize:
            return f"{given} comes in and {dtype} goes out: half of the digits are gone"
    return None


def causal_weights(case: Case, outcome: Outcome) -> str | None:
    """3.5: on the five tokens, the second result gives the future nothing and its rows sum to 1."""
    results = outcome.values[0]
    if not isinstance(results, (tuple, list)) or len(results) != 2:
        return "expected two results, `return output, weights`"
    weights, n = as_array(results[1]), len(TOKENS)
    if weights is None or weights.shape != (n, n):
        got = "no array" if weights is None else f"shape {list(weights.shape)}"
        return f"the weights should be a [{n}, {n}] matrix, queries by keys; got {got}"
    for i, j in zip(*np.nonzero((weights != 0) & ~causal().matrix(n)), strict=True):
        return (
            f"row {i} ({TOKENS[i]}) gives weight {weights[i, j]:.4f} to column {j} ({TOKENS[j]}): "
            "that is the future"
        )
    for i, total in enumerate(weights.sum(axis=1)):
        if not abs(total - 1) < 1e-4:
            return f"the weights of row {i} ({TOKENS[i]}) sum to {total:.4f}, not to 1"
    return None


def row_of_on(case: Case, outcome: Outcome) -> str | None:
    """3.1: five weights that sum to 1, the last of them 0."""
    return _row(outcome.values[0], np.array([True, True, True, True, False]))


def row_by_hand(case: Case, outcome: Outcome) -> str | None:
    """3.2: five weights that sum to 1, with the mask of the task."""
    return _row(outcome.values[0], np.array([True, True, False, True, False]))


def _row(value: object, visible: np.ndarray) -> str | None:
    """What keeps a value from being a row of weights; None if nothing does."""
    row = as_array(value)
    if row is None or row.shape != visible.shape:
        got = type(value).__name__ if row is None else f"shape {list(row.shape)}"
        return f"expected {len(visible)} numbers, one for each key, blocked keys too; got {got}"
    if not np.isfinite(row).all():
        return f"entry {int(np.argmin(np.isfinite(row)))} is not a finite number"
    for j, weight in enumerate(row):
        if not visible[j] and weight != 0:
            return f"entry {j} is {weight:.4f}, but this key is blocked"
        if visible[j] and weight <= 0:
            return f"entry {j} is {weight:.4f}, but this key is visible"
    if abs(row.sum() - 1) > 5e-4:
        return f"your weights add up to {row.sum():.4f}"
    return None


#: 3.4: the range of the scores, how far a weight has to be off, and the gap at which float32
#: begins to lose bits: e^-88 is about its smallest number of full precision.
_RANGE, _OFF, _FULL_PRECISION = 60.0, 0.1, 88.0


def silent_renormalisation(case: Case, outcome: Outcome) -> str | None:
    """3.4: on this row of four, renormalising after softmax looks healthy and is wrong.

    The last score is blocked. Everything is float32, with `exp` rounded correctly (computed in
    float64), so that the verdict is the same on every machine.
    """
    scores = as_array(outcome.values[0])
    if scores is None or scores.shape != (4,):
        got = type(outcome.values[0]).__name__ if scores is None else f"shape {list(scores.shape)}"
        return f"expected four numbers; got {got}"
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        return Mistake("infinite or not a number", f"your row is {_listed(scores)}")
    if np.abs(scores).max() > _RANGE:
        worst = scores[np.abs(scores).argmax()]
        return Mistake("scores out of range", f"{worst:g} is not between -60 and 60")
    weights = _float32_exp(scores - scores.max())
    weights = (weights / weights.sum())[:3]
    with np.errstate(all="ignore"):
        shortcut = weights / weights.sum()
    exact = np.exp(scores[:3].astype(np.float64) - scores[:3].max())
    exact = exact / exact.sum()
    sentence = f"the shortcut gives {_listed(shortcut)}, the true weights are {_listed(exact)}"
    gap = float(scores[3] - scores[:3].max())
    if not np.isfinite(shortcut).all():
        return Mistake("gap too large", f"{sentence}: everybody notices")
    if abs(shortcut.sum() - 1) > 1e-3:
        return f"the shortcut's weights add up to {shortcut.sum():.4f}: everybody notices"
    if np.abs(shortcut - exact).max() >= _OFF:
        return None
    sentence += ": no weight is off by 0.1"
    if gap <= 0:
        return Mistake("high score on a visible cell", sentence)
    if gap < _FULL_PRECISION:
        return Mistake("gap too small", sentence)
    if np.ptp(scores[:3]) == 0:
        return Mistake("visible scores all equal", sentence)
    if exact.max() > 1 - _OFF:
        return Mistake("one weight crushed, and rightly", sentence)
    return sentence


def _float32_exp(x: np.ndarray) -> np.ndarray:
    return np.exp(x.astype(np.float64)).astype(np.float32)


def _listed(row: np.ndarray) -> str:
    return f"[{', '.join(f'{x:.4g}' for x in row)}]"


def fed_once(case: Case, outcome: Outcome) -> str | None:
    """5.6: prompt and new tokens are fed once and in order, the last new one not at all."""
    _, prompt, n = case.calls[0].args
    fed = [int(t) for record in outcome.callbacks.get("step", ()) for t in np.ravel(record[0])]
    new = [int(t) for t in np.ravel(outcome.values[0])]
    if len(new) != n:
        return f"asked for {n} new tokens, you return {len(new)}: mend that first"
    want = [*prompt, *new][: len(prompt) + n - 1] if n else []
    if fed == want or (n == 0 and fed == list(prompt)):
        return None
    if fed[: len(want)] == want:
        return (
            f"the model was fed {len(fed)} tokens where {len(want)} do: "
            "it has read a token after which nobody asked for another"
        )
    if not fed:
        return "the model was never fed anything"
    story = f"the model was fed {', '.join(map(str, fed))}, in this order"
    at = next((i for i, (a, b) in enumerate(zip(fed, want, strict=False)) if a != b), len(fed))
    if at == len(fed):
        return f"{story}, and that is not all of the prompt and of your new tokens"
    source = "the prompt" if at < len(prompt) else "the tokens that you return"
    return f"{story}; by {source}, entry {at} should be {want[at]}, and it is {fed[at]}"


def two_tables(case: Case, outcome: Outcome) -> str | None:
    """6.2: the form of the answer."""
    try:
        shape = np.shape(outcome.values[0])
    except ValueError:
        return "the rows have different lengths; expected two tables of five rows and five columns"
    if shape == (2, 5, 5):
        return None
    return f"expected shape [2, 5, 5], a table for p = 2 and one for p = 3; got {list(shape)}"


def rows_of_weights(case: Case, outcome: Outcome) -> str | None:
    """6.2: what holds for the rows of any table of weights."""
    tables = np.asarray(outcome.values[0], dtype=np.float64)
    if tables.ndim != 3:
        return "expected two tables"
    if (tables < 0).any():
        return "a weight is never negative, and one of yours is"
    sums = tables.sum(axis=-1)
    wrong = np.argwhere(~(abs(sums - 1) < 2e-3))
    if len(wrong) == 0:
        return None
    table, row = wrong[0]
    return f"row {row} of table {table} adds up to {sums[table, row]:.4f}, not to 1"


#: 4.5: the stations of the shape flow and how many axes the task gives to some of them.
_STATIONS = {
    "q": None,
    "k_transposed": None,
    "scores": None,
    "causal_mask": 4,
    "padding_mask": 4,
    "weights": None,
    "output": None,
    "merged": 3,
}


def eight_shapes(case: Case, outcome: Outcome) -> str | None:
    """4.5: a dict with the names of the task, each a tuple of ints."""
    shapes = outcome.values[0]
    if not isinstance(shapes, dict):
        return f"SHAPES is a {type(shapes).__name__}; expected a dict from names to tuples of ints"
    missing = [name for name in _STATIONS if name not in shapes]
    if missing:
        return f"there is no entry {missing[0]!r}"
    unknown = [name for name in shapes if name not in _STATIONS]
    if unknown:
        return f"the task has no name {unknown[0]!r}"
    for name, axes in _STATIONS.items():
        shape = shapes[name]
        if not isinstance(shape, (tuple, list)) or not all(type(n) is int for n in shape):
            return f"{name!r} is {shape!r}; expected a tuple of ints"
        if axes is not None and len(shape) != axes:
            if axes == 4:
                return Mistake(
                    "masks without all four axes", f"{name!r} has {len(shape)} axes, not 4"
                )
            return f"{name!r} has {len(shape)} axes; the task asks for {axes}"
    return None


def shapes_fit(case: Case, outcome: Outcome) -> str | None:
    """4.5: the shapes agree with each other: each product can be taken, each mask stretched."""
    if eight_shapes(case, outcome) is not None:
        return "first the claim above"
    shape = {name: tuple(value) for name, value in outcome.values[0].items()}
    q, keys, scores = shape["q"], shape["k_transposed"], shape["scores"]
    if len(q) < 2 or len(keys) < 2:
        return "q and k_transposed need at least two axes each to be multiplied"
    if q[-1] != keys[-2]:
        sentence = f"q {q} @ k_transposed {keys} cannot be taken: {q[-1]} meets {keys[-2]}"
        name = _turned(q, keys)
        return Mistake(name, sentence) if name else sentence
    try:
        product = (*np.broadcast_shapes(q[:-2], keys[:-2]), q[-2], keys[-1])
    except ValueError:
        sentence = f"q {q} @ k_transposed {keys} cannot be taken: the axes in front do not match"
        turned = q[1:-1] == keys[-1:] + keys[1:-2]
        return Mistake("heads after tokens", sentence) if turned else sentence
    if product != scores:
        return f"q {q} @ k_transposed {keys} gives {product}, and you say that scores is {scores}"
    if shape["weights"] != scores:
        return f"softmax keeps the shape: scores is {scores}, weights {shape['weights']}"
    return _masks_fit(shape) or _merged_fits(shape)


def _turned(q: tuple[int, ...], keys: tuple[int, ...]) -> str:
    """Which way the keys were turned, by name, as far as the shapes tell."""
    if q == keys:
        return "keys not transposed"
    return "all axes of the keys reversed" if q[::-1] == keys else ""


def _masks_fit(shape: dict[str, tuple[int, ...]]) -> str | None:
    for name in ("causal_mask", "padding_mask"):
        mask = shape[name]
        fits = len(mask) == len(shape["scores"]) and all(
            m in (1, n) for m, n in zip(mask, shape["scores"], strict=True)
        )
        if not fits:
            return f"{name} {mask} cannot be stretched to the scores, {shape['scores']}"
    heads, rows = shape["padding_mask"][1:3]
    if max(shape["causal_mask"][:2]) > 1:
        return Mistake("mask copied for every head", f"causal_mask is {shape['causal_mask']}")
    if shape["padding_mask"][3] > 1 and max(heads, rows) > 1:
        sentence = f"padding_mask is {shape['padding_mask']}"
        return Mistake("padding mask as large as the grid", sentence)
    return None


def _merged_fits(shape: dict[str, tuple[int, ...]]) -> str | None:
    output, merged = shape["output"], shape["merged"]
    if np.prod(output) == np.prod(merged):
        return None
    sentence = (
        f"output {output} holds {np.prod(output)} numbers, merged {merged} holds "
        f"{np.prod(merged)}: merging neither adds any nor loses any"
    )
    length = shape["q"][-1]
    short = output[-1] == length or (len(output) > 1 and merged[-1] == output[1] * length)
    return Mistake("values as long as keys", sentence) if short else sentence


def dtype_as_asked(case: Case, outcome: Outcome) -> str | None:
    """2.4: the result has the type that the second argument names."""
    asked = case.calls[0].args[1].name
    got = getattr(outcome.values[0], "dtype", type(outcome.values[0]).__name__)
    if str(got) == asked:
        return None
    sentence = f"the result has dtype {got}; you were asked for {asked}."
    if str(got).startswith("float"):
        return Mistake("dtype ignored", sentence)
    return sentence


def five_rows_of_five(case: Case, outcome: Outcome) -> str | None:
    """2.1: a matrix of the size of the sentence."""
    try:
        shape = np.shape(outcome.values[0])
    except ValueError:  # rows of unequal length
        return "the rows do not all have the same length."
    return None if shape == (5, 5) else f"shape {list(shape)}; five tokens make five rows of five."


def five_weights(case: Case, outcome: Outcome) -> str | None:
    """2.6: one weight a token, none negative, and all of them together are 1."""
    try:
        weights = np.asarray(outcome.values[0], dtype=float)
    except (TypeError, ValueError):
        return "these are not five numbers."
    if weights.shape != (5,):
        return f"shape {list(weights.shape)}; five tokens get five weights."
    if (weights < 0).any():
        return f"{weights.min():.4g} is negative; a weight is not."
    if abs(weights.sum() - 1) > 0.01:
        return f"they add up to {weights.sum():.4g}; weights add up to 1."
    return None


def an_int(case: Case, outcome: Outcome) -> str | None:
    """5.5: a count is an int, of Python or NumPy, and not a float that happens to be whole."""
    value = outcome.values[0]
    if np.asarray(value).dtype.kind in "iuO":
        return None
    return f"you return {value!r}, a {type(value).__name__}; expected an int"


def integer(case: Case, outcome: Outcome) -> str | None:
    """7.4: a whole number that is one, not a floating one."""
    value = np.asarray(outcome.values[0])
    if value.dtype.kind in "iu":
        return None
    sentence = f"you return a number of type {type(outcome.values[0]).__name__}, not an integer."
    return Mistake("floating numbers", sentence) if value.dtype.kind == "f" else sentence
