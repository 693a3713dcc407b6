"""The figures of chapter 7 show the data that they are given, and say it in words."""

import json

import numpy as np
import pytest

from course_lib.figures import flash as figures
from course_lib.figures.flash import (
    gpu_view,
    recorded,
    roofline_view,
    speed_view,
    steps_view,
    walk_view,
)
from course_lib.masks import causal, same_document, sliding_window
from tests.helpers.paths import ROOT

GPU = {
    "date": "2026-01-02",
    "hardware": {"device": "a GPU", "torch": "9", "triton": "8"},
    "dtype": "torch.bfloat16",
    "forward": {
        "d64_T1024": {"ours": {"tflops": 3.0}, "cudnn": {"tflops": 5.0}},
        "d64_T2048": {"ours": {"tflops": 4.0}, "cudnn": {"tflops": 6.0}},
    },
}


def test_the_walk_counts_the_tiles_that_it_draws():
    figure = walk_view(causal(), 16, block_q=4, block_k=4)
    assert "6 full, 4 partial, 6 empty. 10 of 16 tiles are visited" in figure.alt
    texts = [t.get_text() for t in figure.canvas.axes[0].texts]
    assert texts == [str(i) for i in range(1, 11)]
    wide = walk_view(sliding_window(3), 3, 8, block_q=2, block_k=4)
    assert "3 queries and 8 keys" in wide.alt and "empty" in wide.alt


def test_the_walk_refuses_what_it_cannot_draw():
    for bad, error, words in (
        ((np.ones((2, 2)), 2), TypeError, "mask"),
        ((same_document([[0, 1]]), 2), ValueError, "batch of 1"),
        ((causal(), 0), ValueError, "n_queries"),
        ((causal(), 5, 4), ValueError, "n_queries"),
    ):
        with pytest.raises(error, match=words):
            walk_view(*bad, block_q=2, block_k=2)


def test_the_roofline_says_what_share_of_the_peak_is_in_reach():
    figure = roofline_view({"machine": (100e12, 1e12)}, {"slow": 25.0, "fast": 400.0}, "Roofs")
    assert "machine reaches 100 TFLOP/s from 100 operations a byte on" in figure.alt
    assert "slow has 25, so at most 25.0% of the peak" in figure.alt
    assert "fast has 400, so at most 100.0% of the peak" in figure.alt
    with pytest.raises(ValueError, match="machines"):
        roofline_view({}, {})
    with pytest.raises(ValueError, match="points"):
        roofline_view({"m": (1, 1)}, {"none": 0.0})


def test_the_recorded_run_is_shown_with_its_hardware_and_date():
    result = recorded("attention")
    saved = json.loads((ROOT / "benchmarks/results/attention.json").read_text("utf-8"))
    assert result == saved
    figure = speed_view(result)
    assert result["hardware"]["processor"] in figure.alt and result["date"] in figure.alt
    last = list(result["times"].values())[-1]
    assert f"{last['sdpa']['median_ms']:.1f}" in figure.alt
    assert len(figure.png()) > 1000
    assert recorded("no such run") is None


def test_the_recorded_ratios_follow_from_the_recorded_times():
    result = recorded("attention")
    for length, times in result["times"].items():
        wanted = times["tiled numpy"]["median_ms"] / times["sdpa"]["median_ms"]
        assert result["ratios"][f"tiled_numpy_over_sdpa_{length}"] == pytest.approx(
            wanted, abs=1e-3
        )


def test_a_gpu_run_is_drawn_panel_by_panel():
    figure = gpu_view(GPU)
    assert figure.alt == (
        "Recorded: a GPU, torch 9, triton 8, 2026-01-02. "
        "forward, torch.bfloat16, d64, TFLOP/s: ours 3.0 to 4.0; cudnn 5.0 to 6.0."
    )
    more = {"d64_T1024": GPU["forward"]["d64_T1024"], "d128_T1024": {"ours": {"tflops": 1.0}}}
    three = gpu_view({**GPU, "backward": more})
    assert sum(ax.axison for ax in three.canvas.axes) == 3
    with pytest.raises(ValueError, match="at least one shape"):
        gpu_view({**GPU, "forward": {}})


def test_the_steps_stand_in_their_order():
    steps = {"teaching kernel": {"tflops": 1.0}, "+ two loops": {"tflops": 2.5}}
    figure = steps_view({**GPU, "steps": {"d64_T1024": steps, "d128_T1024": steps}})
    assert "d64_T1024, TFLOP/s: teaching kernel 1.0; + two loops 2.5." in figure.alt
    assert "a GPU" in figure.alt and len(figure.canvas.axes) == 2
    with pytest.raises(ValueError, match="at least one shape in steps"):
        steps_view(GPU)


def test_the_same_data_gives_the_same_bytes():
    a, b = (walk_view(causal(), 8, block_q=2, block_k=2).png() for _ in range(2))
    assert a == b
    assert figures.recorded("attention") == figures.recorded("attention")
