"""Claims about rotary positions: only distances count, lengths stay, and Llama turns alike."""

import numpy as np
import pytest
import torch

from course_lib.rotary import frequencies, rotate, rotation


def turned(x: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """x [..., T, D] at these positions."""
    angles = rotation(torch.tensor(positions), frequencies(x.shape[-1]), x.dtype)
    return rotate(x, *angles)


def test_scores_depend_on_distance_only() -> None:
    rng = np.random.default_rng(0)
    q, k = (torch.from_numpy(rng.normal(size=(1, 1, 1, 8))) for _ in range(2))

    def score(m: int, n: int) -> float:
        return (turned(q, [m]) * turned(k, [n])).sum().item()

    assert score(7, 3) == pytest.approx(score(44, 40), abs=1e-12)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3
    assert turned(q, [31]).norm() == pytest.approx(q.norm().item())


def test_the_first_pair_turns_one_radian_a_position() -> None:
    x = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)  # entries 0 and 2 are a pair
    assert turned(x, [3]).flatten().tolist() == pytest.approx([np.cos(3), 0, np.sin(3), 0])


def test_the_dtype_of_the_tables_does_not_widen_queries() -> None:
    """As under autocast, where queries are narrower than weights."""
    angles = rotation(torch.arange(5), frequencies(8), torch.float32)
    q = torch.ones(2, 3, 5, 8, dtype=torch.bfloat16)
    assert rotate(q, *angles).dtype == torch.bfloat16


def test_they_turn_like_those_of_llama() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    q = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 5, 8)))
    cos, sin = rotation(torch.arange(5), frequencies(8), torch.float64)
    wide = (torch.cat([x, x], dim=-1).expand(2, 1, 5, 8)[:, 0] for x in (cos, sin))
    theirs, _ = llama.apply_rotary_pos_emb(q, q, *wide)
    torch.testing.assert_close(rotate(q, cos, sin), theirs)
