"""Hidden checks of chapter 7: Flash attention (teachers only)."""

from collections.abc import Sequence

import numpy as np
import torch

from course_lib.attention import attention
from course_lib.checks.script import Call, Case, Drawn, Outcome, Tensor
from course_lib.masks import causal, sliding_window
from course_tools.exercise_bank.assertions import as_array, as_number, as_tuple, close, unchanged
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Cases = Sequence[Case]
Outcomes = Sequence[Outcome]

# --- 7.1 online_softmax_update -------------------------------------------------------------------


def seen_state(scores, values):
    """m, l and acc of scores [Tq, Tk] that were seen, by the definition."""
    m = scores.max(axis=1, initial=-np.inf)
    p = np.exp(scores - np.where(m == -np.inf, 0, m)[:, None])
    return m, p.sum(axis=1), p @ values


def update_case(rng, queries, before, now, width, note, scale=2.0, offset=0.0, blocked=0.0):
    """A state that has seen some keys, and a new block."""
    scores = rng.normal(size=(queries, before + now)) * scale + offset
    scores[rng.random(scores.shape) < blocked] = -np.inf
    values = rng.normal(size=(before + now, width))
    state = seen_state(scores[:, :before], values[:before])
    return Case([Call([*state, scores[:, before:], values[before:]])], note)


def ordinary(rng):
    """A first block, later blocks, one key, one query."""
    return [
        update_case(rng, 4, 0, 3, 2, "the first block"),
        update_case(rng, 5, 6, 3, 4, "a later block"),
        update_case(rng, 1, 4, 1, 3, "one query, one key"),
        update_case(rng, 6, 1, 9, 1, "one number a value"),
        update_case(rng, 4, 5, 4, 2, "with blocked cells", blocked=0.3),
    ]


def large(rng):
    """Scores whose exponentials overflow, and rows on very different levels."""
    cases = [
        update_case(rng, 4, 3, 4, 2, "scores near 2000", offset=2000.0),
        update_case(rng, 4, 3, 4, 2, "scores near -2000", offset=-2000.0),
        update_case(rng, 5, 3, 4, 2, "scores far apart", scale=800.0),
    ]
    levels = np.array([2000.0, 0.0, -2000.0])[:, None]
    scores = rng.normal(size=(3, 6)) + levels
    values = rng.normal(size=(6, 2))
    state = seen_state(scores[:, :3], values[:3])
    return [*cases, Case([Call([*state, scores[:, 3:], values[3:]])], "rows far apart")]


def blocked_rows(rng):
    """Rows to which the block shows nothing, or that have seen nothing yet."""
    cases = []
    for first, second, note in (
        (-np.inf, -np.inf, "nothing seen, nothing shown"),
        (-np.inf, 1.0, "nothing seen before this block"),
        (1.0, -np.inf, "a block that shows nothing"),
    ):
        scores, values = rng.normal(size=(4, 6)), rng.normal(size=(6, 3))
        scores[1:3, :3] += first if first < 0 else 0
        scores[1:3, 3:] += second if second < 0 else 0
        state = seen_state(scores[:, :3], values[:3])
        cases.append(Case([Call([*state, scores[:, 3:], values[3:]])], note))
    return cases


def judge_update(cases: Cases, outcomes: Outcomes) -> None:
    """Rescaled and added, row by row."""
    for case, outcome in zip(cases, outcomes, strict=True):
        m, l, acc, scores, values = case.calls[0].args
        parts = as_tuple(outcome.values[0], 3, f"{case.note}: the result")
        new_m = np.maximum(m, scores.max(axis=1))
        base = np.where(new_m == -np.inf, 0.0, new_m)
        shrink, p = np.exp(m - base), np.exp(scores - base[:, None])
        wanted = (new_m, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p @ values)
        for name, got, want in zip(("m", "l", "acc"), parts, wanted, strict=True):
            got = as_array(got, want.shape, "float", f"{case.note}: {name}")
            if np.isnan(got).any():
                raise WrongError(f"{case.note}: {name} holds NaN")
            close(got, want, f"{case.note}: {name}", rtol=1e-9, atol=1e-12)
    unchanged(outcomes)


def untouched_rows(rng):
    """A block of -inf everywhere: not a bit may change."""
    scores, values = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    state = seen_state(scores, values)
    return [
        Case([Call([*state, np.full((3, 2), -np.inf), rng.normal(size=(2, 2))])], "all blocked")
    ]


def judge_untouched(cases: Cases, outcomes: Outcomes) -> None:
    """The same three arrays."""
    parts = as_tuple(outcomes[0].values[0], 3)
    for name, got, want in zip(("m", "l", "acc"), parts, cases[0].calls[0].args, strict=False):
        got = as_array(got, np.shape(want), "float", name)
        if (got != want).any():
            raise WrongError(f"a block that shows nothing changes {name}")


ONLINE = Hidden(
    "7.1",
    [
        Claim("takes in a block, the first one too", ordinary, judge_update, 2),
        Claim("large scores do no harm", large, judge_update),
        Claim("rows that see nothing", blocked_rows, judge_update),
        Claim("nothing shown, nothing changed", untouched_rows, judge_untouched, 0.5),
    ],
)

# --- 7.2 count_tiles -----------------------------------------------------------------------------


def counted(n: int, block: int) -> dict[str, int]:
    """From the corners of each tile."""
    first = np.arange(0, n, block)
    last = np.minimum(first + block, n) - 1
    full, empty = last <= first[:, None], first > last[:, None]
    return {"full": full.sum(), "empty": empty.sum(), "partial": (~full & ~empty).sum()}


def tile_cases(pairs):
    """One call each."""
    return [Case([Call([int(n), int(block)])], f"n = {n}, block = {block}") for n, block in pairs]


def divisible(rng):
    """Tiles of one size."""
    return tile_cases((b * r, b) for b, r in ((2, 1), (4, 3), (3, 7), (16, 5), (8, 8)))


def ragged(rng):
    """A smaller last tile, and one tile larger than everything."""
    drawn = [(int(rng.integers(5, 60)), int(rng.integers(2, 12))) for _ in range(6)]
    return tile_cases([(5, 3), (11, 4), (3, 8), *drawn])


def single_cells(rng):
    """Tiles of a single cell on the diagonal."""
    return tile_cases(
        [(1, 1), (7, 1), (5, 2), (9, 4), (1, 6), (int(rng.integers(2, 9)) * 7 + 1, 7)]
    )


def long_texts(rng):
    """So long that the mask does not fit; for the last, it is 400 MB of booleans."""
    pairs = [(int(rng.integers(6000, 7000)), 64, {"memory_mb": 10}),
             (8192, 128, {"memory_mb": 10}),
             (int(rng.integers(20_000, 21_000)), 128, {"room_mb": 32})]  # fmt: skip
    return [Case([Call([n, b])], f"n = {n}, block = {b}", **limit) for n, b, limit in pairs]


def judge_tiles(cases: Cases, outcomes: Outcomes) -> None:
    """Three integers by name."""
    for case, outcome in zip(cases, outcomes, strict=True):
        got = outcome.values[0]
        if not isinstance(got, dict) or set(got) != {"full", "partial", "empty"}:
            raise WrongError(f"{case.note}: expected a dict with the keys full, partial and empty")
        want = counted(*case.calls[0].args)
        for name, number in want.items():
            if as_number(got[name], "number", f"{case.note}: {name}") != number:
                raise WrongError(f"{case.note}: the number of {name} tiles is not right")


TILES = Hidden(
    "7.2",
    [
        Claim("tiles of one size", divisible, judge_tiles),
        Claim("a smaller last tile", ragged, judge_tiles),
        Claim("tiles of a single cell", single_cells, judge_tiles),
        Claim("long texts, without the mask", long_texts, judge_tiles, 2),
    ],
)

# --- 7.3 flash_attention -------------------------------------------------------------------------


def qkv(rng, queries, keys, width, value_width, dtype=np.float64, scale=1.0):
    """Random queries, keys and values."""
    shapes = ((queries, width), (keys, width), (keys, value_width))
    q, k, v = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    return [q * dtype(scale), k, v]


def flash_case(rng, queries, keys, block, width=4, value_width=3, **options):
    """One call."""
    note = f"{queries} queries, {keys} keys, block = {block}"
    return Case([Call([*qkv(rng, queries, keys, width, value_width, **options), block])], note)


def squares(rng):
    """As many queries as keys; blocks that divide and that do not."""
    sizes = ((1, 1), (8, 4), (12, 5), (7, 1), (9, 16), (33, 8))
    return [flash_case(rng, n, n, b) for n, b in sizes]


def ends_of_texts(rng):
    """Queries that are the end of a longer text."""
    sizes = ((1, 10, 4), (3, 8, 3), (5, 21, 4), (6, 7, 2), (2, 9, 1))
    return [flash_case(rng, q, k, b, 8, 5) for q, k, b in sizes]


def steep(rng):
    """Large scores, in both types."""
    return [
        flash_case(rng, 12, 12, 4, scale=1000.0),
        flash_case(rng, 4, 11, 3, scale=1000.0),
        flash_case(rng, 10, 10, 3, dtype=np.float32),
        flash_case(rng, 10, 10, 4, dtype=np.float32, scale=300.0),
    ]


def judge_flash(cases: Cases, outcomes: Outcomes) -> None:
    """As plain attention says."""
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v, _ = case.calls[0].args
        want = attention(
            q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), causal()
        )[0]
        got = as_array(outcome.values[0], want.shape, "float", f"{case.note}: the output")
        loose = 1e-9 if q.dtype == np.float64 else 2e-4
        close(got, want, f"{case.note}: the output", rtol=loose, atol=loose)
    unchanged(outcomes)


def any_cut(rng):
    """One text cut into tiles of many sizes."""
    q, k, v = qkv(rng, 13, 13, 4, 2)
    return [
        Case([Call([q, k, v, block]) for block in (1, 2, 5, 8, 13, 40)], "one text, six blocks")
    ]


def judge_same(cases: Cases, outcomes: Outcomes) -> None:
    """The same output each time."""
    first, *others = (as_array(v, (13, 2), "float", "the output") for v in outcomes[0].values)
    for got in others:
        close(got, first, "the output for another block", rtol=1e-9, atol=1e-9)
    unchanged(outcomes)


def poisoned(rng):
    """NaN in whole tiles of the future."""
    cases = []
    for n, block in ((12, 4), (10, 2), (9, 3)):
        q, k, v = qkv(rng, n, n, 4, 3)
        clean = n - block * int(rng.integers(1, 3))
        # Both: a rule applied with `where` heals scores, and 0 times NaN shows in values only.
        k[clean:], v[clean:] = np.nan, np.nan
        cases.append(
            Case(
                [Call([q, k, v, block])], f"NaN in keys and values from {clean} on, block = {block}"
            )
        )
    return cases


def judge_poisoned(cases: Cases, outcomes: Outcomes) -> None:
    """Rows before the NaN are as if it were not there."""
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v, _ = case.calls[0].args
        clean = int(np.argmax(np.isnan(k).any(axis=1) | np.isnan(v).any(axis=1)))
        want = attention(q[:clean], k[:clean], v[:clean], causal())[0]
        got = as_array(outcome.values[0], (len(q), v.shape[1]), "float", f"{case.note}: the output")
        if np.isnan(got[:clean]).any():
            raise WrongError(f"{case.note}: NaN of the future comes out in an earlier row")
        close(got[:clean], want, f"{case.note}: the rows before it", rtol=1e-9, atol=1e-9)


def budget(q: Drawn, block: int) -> float:
    """What the task allows, in MB: eight tiles and four arrays like q."""
    return (8 * block * block * 8 + 4 * int(np.prod(q.shape)) * 8) / 1e6


def long_text(rng):
    """A length at which neither all scores nor those of a row of tiles fit.

    A row of tiles takes 8 MB in the first, which the meter sees, and 134 MB in the last, which the
    sandbox sees from outside.
    """
    cases = []
    for queries, keys, block in ((4096, 4096, 256), (512, 8192, 128), (256, 65536, 256)):
        seeds = rng.integers(10**6, size=3)
        q, k, v = (
            Drawn(int(s), (n, 8), "float64")
            for s, n in zip(seeds, (queries, keys, keys), strict=True)
        )
        allowed = budget(q if queries == keys else Drawn(0, (keys, 8)), block)
        limit = {"room_mb": allowed + 24} if keys == 65536 else {"memory_mb": allowed}
        cases.append(Case([Call([q, k, v, block])], f"{queries} queries, {keys} keys", **limit))
    return cases


def judge_long(cases: Cases, outcomes: Outcomes) -> None:
    """A sample of rows, as plain attention says."""
    for case, outcome in zip(cases, outcomes, strict=True):
        drawn = case.calls[0].args[:3]
        q, k, v = (np.random.default_rng(d.seed).standard_normal(tuple(d.shape)) for d in drawn)
        got = as_array(outcome.values[0], (len(q), v.shape[1]), "float", f"{case.note}: the output")
        for row in (0, 1, len(q) // 2 + 3, len(q) - 1):
            keys = row + len(k) - len(q) + 1
            want = attention(q[row : row + 1], k[:keys], v[:keys])[0][0]
            close(got[row], want, f"{case.note}: output row {row}", rtol=1e-8, atol=1e-8)


FLASH = Hidden(
    "7.3",
    [
        Claim("causal attention, whatever the block", squares, judge_flash, 2),
        Claim("queries at the end of a longer text", ends_of_texts, judge_flash),
        Claim("large scores, and float32", steep, judge_flash),
        Claim("the cut into tiles does not show", any_cut, judge_same, 0.5),
        Claim("future tiles are not computed", poisoned, judge_poisoned),
        Claim("a few tiles of memory, at any length", long_text, judge_long, 2),
    ],
)

# --- 7.4 attention_flops -------------------------------------------------------------------------


def by_counting(n, d, heads, batch, causal_):
    """Pair by pair."""
    pairs = sum(1 for i in range(n) for j in range(n) if j <= i or not causal_)
    forward, backward = 2, 5
    return sum(2 * d * pairs * heads * batch for _ in range(forward + backward))


def small_sizes(rng):
    """Random small sizes, with and without the mask."""
    cases = []
    for causal_ in (True, False):
        for _ in range(4):
            sizes = [int(x) for x in rng.integers(1, 9, size=4)]
            cases.append(
                Case([Call([*sizes, causal_])], f"n, d, heads, batch = {sizes}, causal = {causal_}")
            )
    return [*cases, Case([Call([1, 1, 1, 1, True])], "one token")]


def judge_flops(cases: Cases, outcomes: Outcomes) -> None:
    """To the last operation."""
    for case, outcome in zip(cases, outcomes, strict=True):
        got = as_number(outcome.values[0], "int", f"{case.note}: the count")
        if got != by_counting(*case.calls[0].args):
            raise WrongError(f"{case.note}: {got} is not the number of operations")


def model_sizes(rng):
    """Sizes of real models: too large for floating numbers."""
    n = int(rng.integers(500_000, 600_000)) * 2 + 1
    cases = [(n, 127, 95, 31, True), (131_071, 127, 63, 9, True), (n, 125, 97, 3, False)]
    return [Case([Call(list(sizes))], f"n = {sizes[0]}, causal = {sizes[4]}") for sizes in cases]


def judge_models(cases: Cases, outcomes: Outcomes) -> None:
    """All digits."""
    for case, outcome in zip(cases, outcomes, strict=True):
        n, d, heads, batch, causal_ = case.calls[0].args
        got = as_number(outcome.values[0], "int", f"{case.note}: the count")
        pairs = sum(range(n + 1)) if causal_ else n * n
        if got != 14 * d * heads * batch * pairs:
            raise WrongError(
                f"{case.note}: {got} is not the number of operations, to the last digit"
            )


FLOPS = Hidden(
    "7.4",
    [
        Claim("a training step, operation by operation", small_sizes, judge_flops, 2),
        Claim("sizes of real models, to the last digit", model_sizes, judge_models),
    ],
)

# --- 7.5 triton_attention ------------------------------------------------------------------------


def kernel_case(rng, heads, n, width, window, scale=1.0):
    """One call."""
    arrays = [rng.normal(size=(heads, n, width)).astype(np.float32) for _ in range(3)]
    arrays[0] *= np.float32(scale)
    note = f"{heads} heads, {n} tokens, d = {width}, window = {window}"
    return Case([Call([*map(Tensor, arrays), window])], note)


def windows(rng):
    """Windows smaller and larger than a block, and than the text."""
    sizes = ((1, 16, 5), (1, 48, 16), (1, 48, 17), (1, 64, 33), (1, 48, 1), (1, 32, 100))
    return [kernel_case(rng, h, n, 16, w) for h, n, w in sizes]


def ragged_texts(rng):
    """Lengths that no block divides, several heads, wider vectors."""
    return [kernel_case(rng, 2, 21, 16, 7), kernel_case(rng, 3, 40, 32, 18), kernel_case(rng, 1, 1, 16, 3),
            kernel_case(rng, 2, 35, 16, 32)]  # fmt: skip


def steep_kernel(rng):
    """Large scores: the running maximum has to work."""
    return [kernel_case(rng, 1, 48, 16, w, scale=100.0) for w in (20, 40)]


def judge_kernel(cases: Cases, outcomes: Outcomes) -> None:
    """As plain attention with the same rule says."""
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v = (torch.from_numpy(t.value).double() for t in case.calls[0].args[:3])
        want = attention(q, k, v, sliding_window(case.calls[0].args[3]) & causal())[0].numpy()
        got = as_array(outcome.values[0], want.shape, "float", f"{case.note}: the output")
        if np.isnan(got).any():
            raise WrongError(f"{case.note}: the output holds NaN")
        close(got, want, f"{case.note}: the output", rtol=1e-4, atol=1e-4)
    unchanged(outcomes)


def poisoned_keys(rng):
    """NaN in keys and values that the queries of one program do not see; in the next head too."""
    past = kernel_case(rng, 1, 64, 16, 17)
    for tensor in past.calls[0].args[1:3]:
        tensor.value[:, :16] = np.nan
    future = kernel_case(rng, 1, 64, 16, 20)
    for tensor in future.calls[0].args[1:3]:
        tensor.value[:, 48:] = np.nan
    other_head = kernel_case(rng, 2, 40, 16, 12)
    for tensor in other_head.calls[0].args[1:3]:
        tensor.value[1] = np.nan
    return [past, future, other_head]


def judge_poisoned_keys(cases: Cases, outcomes: Outcomes) -> None:
    """The rows that do not see them are as if they were not there."""
    parts = (slice(32, 64), slice(0, 48), slice(0, 40))
    for case, outcome, rows in zip(cases, outcomes, parts, strict=True):
        arrays = [np.nan_to_num(t.value).astype(np.float64) for t in case.calls[0].args[:3]]
        rule = sliding_window(case.calls[0].args[3]) & causal()
        want = attention(*arrays, rule)[0]
        got = as_array(outcome.values[0], want.shape, "float", "the output")
        if np.isnan(got[0, rows]).any():
            raise WrongError("NaN comes out in rows whose program sees no such key")
        close(got[0, rows], want[0, rows], "the rows that see no NaN", rtol=1e-4, atol=1e-4)


KERNEL = Hidden(
    "7.5",
    [
        Claim("any window", windows, judge_kernel, 2),
        Claim("any length, several heads", ragged_texts, judge_kernel),
        Claim("large scores", steep_kernel, judge_kernel),
        Claim("blocks that nobody sees are not used", poisoned_keys, judge_poisoned_keys),
    ],
    needs="triton",
)

HIDDEN = [ONLINE, TILES, FLASH, FLOPS, KERNEL]
