"""Claims about the battery: each test catches the bug it is for, and honest models pass."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib import leaks
from course_lib.attention import attention
from course_lib.gpt import GPT, GPTConfig
from course_lib.leaks import audit, audit_attention, rewarded_offset
from course_lib.leaks.models import Subject, hugging_face
from course_lib.masks import causal, prefix_lm, sliding_window

TESTS = [
    "future influence", "train/eval agreement", "cache against full", "chunk split",
    "left padding", "left padding, cached", "rows that see nothing", "dtype limits",
]  # fmt: skip


def loud(model, seed=0):
    """Random weights large enough for every word to matter."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.3 * rng.normal(size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(noise) + (parameter.ndim == 1))
    return model


def gpt(**options):
    rules = {name: options.pop(name) for name in ("mask", "masking") if name in options}
    config = GPTConfig(vocab_size=20, context=24, width=32, **options)
    return loud(GPT(config, np.random.default_rng(0), **rules))


def series(*shape):
    return torch.from_numpy(np.random.default_rng(5).normal(size=shape))


# --- honest models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"positions": "rotary"}, {"kv_heads": 1}, {"mask": sliding_window(3)}]
)
def test_an_honest_model_passes_all_tests(options):
    report = audit(gpt(**options))
    assert report.ok and [f.name for f in report.results] == TESTS
    assert {f.verdict for f in report.results} == {"pass"}, report


def test_an_honest_model_in_single_precision_passes():
    assert audit(gpt().float()).ok


def test_the_models_of_hugging_face_pass():
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 50, "bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=4, **small)
    model = loud(transformers.GPT2LMHeadModel(config)).double().eval()
    assert {f.verdict for f in audit(model).results} == {"pass"}
    failed = audit(hugging_face(model, positions=False)).failed
    assert failed == ["left padding", "left padding, cached"]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Dropout(0.3), nn.Linear(8, 9)).double()
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = audit(model, vocab_size=9)
    assert report.verdict("train/eval agreement") == "pass"
    assert model.training and not model[1].training and model[1].p == 0.3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float64
    assert all(p.grad is None for p in model.parameters())


# --- each test and its bug -----------------------------------------------------------------------


def test_a_model_without_its_mask_fails_future_influence():
    report = audit(gpt(masking="never"))
    assert report.verdict("future influence") == "FAIL"
    assert report.verdict("left padding") == "pass"
    assert "output 0 changes when input" in str(report)


def test_a_mask_in_training_only_fails_the_agreement_of_modes():
    report = audit(gpt(masking="training"))
    assert report.verdict("train/eval agreement") == "FAIL"
    assert report.verdict("future influence") == "FAIL"


def test_the_intended_rule_can_be_given():
    model = gpt(mask=prefix_lm(3))
    assert audit(model).verdict("future influence") == "FAIL"
    report = audit(model, allowed=prefix_lm(3))
    assert report.verdict("future influence") == "pass"
    assert report.verdict("chunk split") == report.verdict("cache against full") == "n/a"


def small_model(bug=None):
    """One layer with positions and a cache; `bug` names what is wrong with it."""
    where = series(32, 8)

    def chunk(x, kept, valid):
        first = 0 if kept is None else kept.shape[1]
        n = first + x.shape[1]
        if valid is None:
            valid = torch.ones(len(x), n, dtype=torch.bool)
        logical = (valid.long().cumsum(1) - 1).clamp(min=0)[:, first:]
        if bug == "slots" or (bug == "slots later" and first):
            logical = torch.arange(first, n).expand(len(x), -1)
        new = x + where[logical]
        keys = new if kept is None else torch.cat([kept, new], dim=1)
        rows = torch.arange(x.shape[1]) if bug == "corner" else torch.arange(first, n)
        mask = causal().tensor(rows, n)
        if bug == "no mask with a cache" and first:
            mask = torch.ones_like(mask)
        mask = mask if bug == "padding seen" else mask & valid[:, None]
        scores = (new @ keys.mT / math.sqrt(8)).masked_fill(~mask, -torch.inf)
        weights = scores.softmax(dim=-1)
        if bug != "nan":
            weights = weights.nan_to_num()
        return weights @ keys, keys

    return Subject(
        forward=lambda x: chunk(x, None, None)[0],
        padded=lambda x, valid: chunk(x, None, valid)[0],
        step=chunk,
    )


PLANTED = {
    None: set(),
    "corner": {"cache against full", "chunk split", "left padding, cached"},
    "no mask with a cache": {"chunk split"},
    "slots": {"left padding", "left padding, cached"},
    "slots later": {"left padding, cached"},
    "padding seen": {"left padding", "left padding, cached"},
    "nan": {"rows that see nothing"},
}


@pytest.mark.parametrize("bug", PLANTED)
def test_each_planted_bug_is_caught_by_the_tests_that_are_for_it(bug):
    report = audit(small_model(bug), series(2, 10, 8))
    assert set(report.failed) == PLANTED[bug]
    assert report.verdict("future influence") == "pass", "none of these breaks the contract"


class Filled(nn.Module):
    """Attention that blocks with a number of its own."""

    def __init__(self, fill):
        super().__init__()
        self.fill, self.scale = fill, nn.Parameter(torch.ones(8, dtype=torch.float64))

    def forward(self, x):
        scores = (x * self.scale) @ x.mT
        blocked = ~causal().tensor(x.shape[1])
        return scores.masked_fill(blocked, self.fill).softmax(dim=-1) @ x


def test_a_fill_that_overflows_half_precision_fails_dtype_limits():
    report = audit(Filled(-1e9), series(2, 8, 8))
    assert report.failed == ["dtype limits"] and "float16" in str(report)
    assert audit(Filled(-torch.inf), series(2, 8, 8)).ok


def test_gradients_that_are_nan_fail_although_outputs_are_finite():
    module = Filled(-torch.inf)

    def padded(x, valid):
        mask = causal().tensor(x.shape[1]) & valid[:, None]
        bias = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(~mask, -torch.inf)
        scores = (x * module.scale) @ x.mT + bias  # masked_fill would stop the NaN on its way back
        return scores.softmax(dim=-1).nan_to_num() @ x

    report = audit(Subject(module, module=module, padded=padded), series(2, 8, 8))
    assert report.failed == ["rows that see nothing"] and "gradients are NaN" in str(report)


def test_a_neighbour_that_is_all_padding_must_not_matter():
    sound = small_model()

    def padded(x, valid):
        return sound.padded(x, valid) + (~valid.any(dim=1)).sum()

    report = audit(Subject(sound.forward, padded=padded), series(2, 8, 8))
    assert report.failed == ["rows that see nothing"] and "neighbour" in str(report)


class HalfEmpty(nn.Module):
    """Right, but says nothing in half precision."""

    def forward(self, x):
        return x if x.dtype == torch.float64 else torch.zeros_like(x)


def test_half_precision_that_is_finite_and_wrong_fails_dtype_limits():
    assert audit(HalfEmpty(), series(2, 8, 8)).failed == ["dtype limits"]


# --- what cannot be tested, and what goes wrong --------------------------------------------------


def test_what_cannot_be_tested_says_why():
    report = audit(lambda t: t[..., None].double().cumsum(dim=1), vocab_size=9)
    assert report.ok and report.verdict("future influence") == "pass"
    assert [f.verdict for f in report.results[1:]] == ["n/a"] * 7
    assert all(f.why for f in report.results)
    assert str(report).count("\n") == 7
    norm = nn.Sequential(nn.Conv1d(10, 10, 1), nn.BatchNorm1d(10)).double()
    assert audit(norm, series(2, 10, 8)).verdict("train/eval agreement") == "n/a"


class Noisy(nn.Module):
    """Random in training, whatever is done to its dropout."""

    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x


def test_a_model_that_is_random_in_training_cannot_be_compared():
    assert audit(Noisy(), series(2, 8, 8)).verdict("train/eval agreement") == "n/a"


def test_an_error_of_the_model_is_a_failure_that_is_quoted():
    def broken(x, kept, valid):
        raise IndexError("no such slot\nand more")

    report = audit(Subject(lambda x: x.cumsum(1), step=broken), series(2, 8, 8))
    assert report.failed == ["cache against full", "chunk split"]
    assert "raises IndexError: no such slot" in str(report) and "and more" not in str(report)


def test_a_nan_never_passes():
    report = audit(Subject(lambda x: x * torch.nan, step=lambda x, kept, valid: (x, None)),
                   series(2, 8, 8))  # fmt: skip
    assert {"future influence", "cache against full", "chunk split"} <= set(report.failed)


def test_a_report_without_a_single_pass_is_not_ok():
    assert not audit(Subject(lambda x: 1 / 0), series(2, 8, 8)).ok
    with pytest.raises(ValueError, match="name: expected one of"):
        audit(Subject(lambda x: x), series(2, 8, 8)).verdict("luck")


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="model_or_fn"):
        audit(3)
    with pytest.raises(ValueError, match="vocab_size"):
        audit(lambda t: t)
    with pytest.raises(ValueError, match="x: expected at least 6"):
        audit(lambda t: t, series(1, 4, 2))
    with pytest.raises(ValueError, match="length"):
        audit(lambda t: t, vocab_size=9, length=5)
    with pytest.raises(ValueError, match="tolerance"):
        audit(lambda t: t, vocab_size=9, tolerance=0)


def test_the_tester_of_leaks_carries_the_battery():
    assert leaks.audit is audit and leaks.audit_attention is audit_attention
    assert leaks.rewarded_offset is rewarded_offset
    with pytest.raises(AttributeError, match="nothing"):
        leaks.nothing  # noqa: B018


# --- attention functions -------------------------------------------------------------------------


def filled(fill):
    def attend(q, k, v, mask):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        return scores.masked_fill(~mask, fill).softmax(dim=-1) @ v

    return attend


def after_softmax(q, k, v, mask):
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1).masked_fill(~mask, 0) @ v


def two_fills(q, k, v, mask):
    lowest = torch.finfo(q.dtype).min
    zeros = torch.zeros(mask.shape, dtype=q.dtype)
    first = zeros.masked_fill(~causal().tensor(q.shape[2]), lowest)
    both = first + zeros.masked_fill(~mask, lowest)
    return (q @ k.mT / math.sqrt(q.shape[-1]) + both).softmax(dim=-1) @ v


def sdpa(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


BLOCKED, REFERENCE, EMPTY, DTYPES = (
    "blocked keys", "the reference", "rows that see nothing", "dtype limits",
)  # fmt: skip


@pytest.mark.parametrize(
    ("attend", "failed"),
    [
        (sdpa, set()),
        (lambda q, k, v, m: attention(q, k, v, m, empty_rows="zeros")[0], set()),
        (after_softmax, {BLOCKED, REFERENCE, DTYPES}),
        (lambda q, k, v, m: sdpa(q, k, v, ~m), {BLOCKED, REFERENCE, EMPTY, DTYPES}),
        (lambda q, k, v, m: sdpa(2 * q, k, v, m), {REFERENCE, DTYPES}),
        (filled(-torch.inf), {EMPTY}),
        (filled(-1e4), {EMPTY, DTYPES}),
        (filled(-1e9), {EMPTY, DTYPES}),
        (two_fills, {EMPTY}),
    ],
    ids=["sdpa", "ours", "after softmax", "inverted", "scale", "-inf", "-1e4", "-1e9", "twice"],
)
def test_an_attention_function_fails_exactly_what_it_breaks(attend, failed):
    assert set(audit_attention(attend).failed) == failed


def test_zeros_with_nan_gradients_are_caught():
    def attend(q, k, v, mask):
        return filled(-torch.inf)(q, k, v, mask).nan_to_num()

    report = audit_attention(attend)
    assert report.failed == [EMPTY] and "gradients are NaN" in str(report)


# --- losses --------------------------------------------------------------------------------------


def shifted(by):
    def loss(logits, tokens):
        n = tokens.shape[1] - by
        return F.cross_entropy(logits[:, :n].flatten(0, 1), tokens[:, by:].flatten())

    return loss


@pytest.mark.parametrize("by", [0, 1, 2, 3])
def test_the_offset_of_a_loss_is_found(by):
    assert rewarded_offset(shifted(by)) == by


def test_a_loss_that_rewards_nothing_is_refused():
    with pytest.raises(ValueError, match="offsets 0 to 3"):
        rewarded_offset(shifted(4))
    with pytest.raises(ValueError, match="length"):
        rewarded_offset(shifted(1), length=3)
