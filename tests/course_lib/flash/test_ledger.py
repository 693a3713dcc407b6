"""The account of attention on a GPU: counted again by hand."""

from dataclasses import replace

import numpy as np
import pytest

from course_lib.costs import decode_intensity, tile_bytes
from course_lib.flash.ledger import GPUS, Work, ledger


def test_the_ridges_of_the_data_sheets():
    ridges = {name: round(gpu.ridge) for name, gpu in GPUS.items()}
    assert ridges == {"T4": 203, "A100": 153, "H100": 295, "H200": 206}


def test_all_the_memory_on_the_chip_of_an_h200():
    """Registers 33 MB and shared memory 30 MB: less than one head of 64k keys."""
    gpu = GPUS["H200"]
    assert round(gpu.registers / 2**20) == 33
    assert 30e12 < gpu.shared_rate < 31e12
    assert gpu.source.count(";") == 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("cached", [0, 40])
def test_the_bytes_of_tiles_counted_one_program_at_a_time(causal, cached):
    n, d, block = 100, 16, 32
    numbers = 0
    for first in range(0, n, block):
        rows = min(block, n - first)
        keys = cached + (first + rows if causal else n)
        numbers += 2 * rows * d + 2 * keys * d
    assert tile_bytes(n, d, block, 3, 2, causal=causal, cached=cached) == 2 * 3 * 2 * numbers


@pytest.mark.parametrize("block_q", [16, 64, 128])
def test_a_block_of_queries_uses_a_key_for_block_q_operations_a_byte(block_q):
    """In 16-bit types, the longer the text the more nearly; in float32 half of that."""
    work = Work(65_536, heads=1, kv_heads=1, block_q=block_q)
    found = ledger(GPUS["H200"], work)
    assert found.intensity("L2") == pytest.approx(block_q, rel=0.01)
    wide = ledger(GPUS["H200"], replace(work, bytes_per_value=4))
    assert wide.intensity("L2") == pytest.approx(block_q / 2, rel=0.01)
    assert found.bound == ("shared memory" if block_q == 16 else "arithmetic")
    assert found.intensity("HBM") > 10_000


def test_decoding_is_bound_by_memory_and_what_multiplies_its_intensity():
    work = Work(1, cached=32_767, grouped=True, block_q=16)
    found = ledger(GPUS["H200"], work)
    assert found.bound == "HBM" and found.intensity("HBM") == pytest.approx(4, rel=0.01)
    assert found.programs == 8 and found.splits == 17 and not found.fits_l2
    drafted = ledger(GPUS["H200"], replace(work, n_queries=4))
    assert drafted.intensity("HBM") == pytest.approx(16, rel=0.01)
    alone = ledger(GPUS["H200"], replace(work, grouped=False))
    assert alone.bytes["HBM"] == found.bytes["HBM"]  # L2 may save what heads fetch four times,
    assert alone.bytes["L2"] == pytest.approx(4 * found.bytes["L2"], rel=0.01)
    assert alone.seconds["HBM"] == found.seconds["HBM"]


def test_operations_a_byte_of_a_cache():
    assert decode_intensity(32, 32) == 1
    assert decode_intensity(32, 8) == 4
    assert decode_intensity(32, 8, new_tokens=4, bytes_per_value=1) == 32
    # DeepSeek-V2: 576 numbers for 128 heads, 512 of them the value as well.
    assert decode_intensity(128, 1, 512, latent_dim=576) == pytest.approx(241.8, abs=0.05)
    assert decode_intensity(128, 1, 512, latent_dim=576) > GPUS["H200"].ridge


def test_the_seconds_are_bytes_over_rates():
    gpu, work = GPUS["A100"], Work(4096)
    found = ledger(gpu, work)
    assert set(found.seconds) == {"HBM", "L2", "shared memory", "arithmetic"}
    for level, rate in (("HBM", 2039e9), ("L2", 5120 * 1.41e9)):
        assert found.seconds[level] == pytest.approx(found.bytes[level] / rate)
    pairs = 4096 * 4097 // 2
    assert found.operations == 4 * pairs * 128 * 32
    assert found.seconds["arithmetic"] == pytest.approx(found.operations / 312e12)
    assert set(ledger(GPUS["H200"], work).seconds) == set(found.seconds) - {"L2"}
    assert np.isclose(ledger(GPUS["H200"], replace(work, bytes_per_value=4)).seconds["arithmetic"],
                      found.operations / 67e12)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "kv_heads: expected a divisor of 32; got 3"),
        ({"block_q": 0}, "block_q: expected at least 1; got 0"),
        ({"cached": -1}, "cached: expected at least 0; got -1"),
    ],
)
def test_errors_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        Work(1, **change)


def test_errors_of_the_costs():
    with pytest.raises(ValueError, match="kv_heads: expected a divisor of 32; got 5"):
        decode_intensity(32, 5)
    with pytest.raises(ValueError, match="latent_dim: expected at least 128; got 64"):
        decode_intensity(32, 1, latent_dim=64)
    with pytest.raises(ValueError, match="bytes_per_value: expected more than 0; got 0"):
        decode_intensity(32, 8, bytes_per_value=0)
