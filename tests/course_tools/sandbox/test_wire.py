"""Frames between grader and sandbox: what goes in comes out, and nothing else gets in."""

import contextlib
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from course_lib.checks.script import Call, Callback, Case, Drawn, DType, Outcome, Problem, Tensor
from course_tools.sandbox.inside import wire


def reader(data):
    at = 0

    def read(size):
        nonlocal at
        if at + size > len(data):
            raise EOFError
        at += size
        return data[at - size : at]

    return read


def back(value, trusted=False):
    return wire.unpack(reader(wire.pack(value)), trusted=trusted)


def frame(tree, body=b"", text=None):
    text = json.dumps(tree).encode() if text is None else text
    return struct.pack("<4sII", b"CAC2", len(text), len(body)) + text + body


def same(a, b):
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and (a == b or a != a)


arrays = of_numpy.arrays(
    st.sampled_from([np.bool_, np.int8, np.int64, np.uint8, np.float16, np.float64, np.complex64]),
    of_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_plain_values_come_back_to_the_bit(value):
    assert same(back(value), value)


def test_scripts_come_back_for_the_sandbox_and_never_from_it():
    script = Case(
        [Call([np.arange(3), Tensor(np.ones(2)), DType("torch", "float32"), Drawn(1, (2, 3))])],
        seconds=3.0,
    )
    case = back(script, trusted=True)
    assert case.calls[0].args[2:] == [DType("torch", "float32"), Drawn(1, (2, 3))]
    assert case.seconds == 3.0
    with pytest.raises(wire.WireError):
        back(script)
    with pytest.raises(wire.WireError):
        back([Callback("step", {})])


def test_big_endian_and_strided_arrays_travel_as_native_ones():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    got = back(array)
    assert got.dtype == np.dtype("<i4")
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), np.array([None]), b"x"])
def test_what_is_not_plain_is_not_sent(value):
    with pytest.raises(wire.WireError):
        wire.pack([value])


def test_a_boolean_is_true_or_false_whatever_its_byte():
    got = wire.unpack(reader(frame({"array": "|b1", "shape": [4]}, bytes([0, 1, 2, 255]))))
    assert got.tobytes() == bytes([0, 1, 1, 1])


@pytest.mark.parametrize(
    "dtype", ["|O", "|V8", ">f8", "f8", "<U1", "|S1", "<M8[s]", "f4,f4", "2f4"]
)
def test_other_kinds_of_arrays_are_refused(dtype):
    with pytest.raises(wire.WireError):
        wire.unpack(reader(frame({"array": dtype, "shape": [1]}, bytes(8))))


@pytest.mark.parametrize(
    "shape", [[-1], [2], [1 << 62], [True], [1.0], ["1"], [0] * 13, [1 << 20, 1 << 20, 0, 1 << 62]]
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(wire.WireError):
        wire.unpack(reader(frame({"array": "<f8", "shape": shape}, bytes(8))))


@pytest.mark.parametrize(
    "tree",
    [
        {"tuple": 3}, {"float": "x"}, {"float": "1"}, {"scalar": {"tuple": []}}, {}, [{"list": []}],
        {"script": "Call"}, {"dict": [], "more": []}, {"scalar": {"array": "<f8", "shape": [1]}},
    ],
)  # fmt: skip
def test_other_json_is_refused(tree):
    with pytest.raises(wire.WireError):
        wire.unpack(reader(frame(tree)))


def deep(levels):
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"[" * 100_000, deep(50), deep(100_000),
        b"[" + b"0," * 300_000 + b"0]",
        b"[" + b"[]," * 900_000 + b"0]", b'"' + b"x" * 200_000 + b'"', b"NaN", b"9" * 5000,
        b'{"dict":{"' + b"k" * 200_000 + b'":0}}',
    ],
    ids=range(11),
)  # fmt: skip
def test_json_beyond_the_limits_is_refused(text):
    with pytest.raises(wire.WireError):
        wire.unpack(reader(frame(None, text=text)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 200), plain)
def test_a_changed_frame_is_refused_or_still_plain(noise, place, value):
    data = bytearray(wire.pack(value))
    data[place : place + len(noise)] = noise
    with contextlib.suppress(wire.WireError, EOFError):
        wire.unpack(reader(bytes(data)))


def test_a_frame_cannot_make_the_reader_wait_for_gigabytes():
    asked = []

    def read(size):
        asked.append(size)
        return struct.pack("<4sII", b"CAC2", 10, 2**32 - 1)

    with pytest.raises(wire.WireError):
        wire.unpack(read)
    assert asked == [12]


#: A script of two calls.
TWO = Case([Call(), Call()])


def test_an_outcome_comes_back():
    outcome = Outcome((np.ones(2),), ("argument 0",), Problem("time", "too long", 3), {}, 5)
    got = wire.checked(back(outcome), TWO, {"step": [(1,)]})
    assert same(got.values, outcome.values)
    assert (got.changed, got.problem, got.peak_bytes) == (outcome.changed, outcome.problem, 5)
    assert got.callbacks == {"step": [(1,)]}


@pytest.mark.parametrize(
    "change",
    [
        {"values": 3}, {"changed": [1]}, {"problem": ["a", "b"]}, {"problem": Problem(1, "b", 0)},
        {"problem": "raised"}, {"peak_bytes": "much"}, {"peak_bytes": np.ones(2)},
        {"problem": Outcome()}, {"values": Problem("a", "b")}, {"values": [Problem("a", "b")]},
        {"values": [{"a": Outcome()}, 1]}, {"changed": [Call()]},
        {"values": [1]}, {"values": []}, {"values": [1, 2, 3]},
        {"values": [1, 2, 3], "problem": Problem("a", "b")},
    ],
)  # fmt: skip
def test_what_is_not_an_outcome_is_refused(change):
    with pytest.raises(wire.WireError):
        wire.checked(back(replace(Outcome((1, 2)), **change)), TWO, {})


def test_only_a_whole_frame_is_an_outcome():
    for value in ([[Outcome()]], {"args": [Problem("a", "b")]}, [Call()], Case([])):
        with pytest.raises(wire.WireError):
            back(value)
    with pytest.raises(wire.WireError):
        wire.checked(back({"values": [], "changed": []}), TWO, {})


def test_a_problems_text_is_cut():
    outcome = Outcome(problem=Problem("raised", "x" * 9000))
    assert len(wire.checked(back(outcome), TWO, {}).problem.text) == 500


def test_texts_that_are_shown_can_be_printed_and_sources_stay_as_they_are():
    text = "a\tb\nc" + "\x1b[31m\x00\r\x85" + "\ud800"
    assert back(text).replace("\N{REPLACEMENT CHARACTER}", "?") == "a\tb\nc?[31m????"
    assert back(text, trusted=True) == text
