"""What attention and its cache cost, counted and not measured (chapters 5 and 7).

Bytes are bytes (1 GB = 10**9, 1 GiB = 2**30); a multiplication and the addition that follows
count as two operations.
"""

from course_lib.masks.rule import check_count


def kv_cache_bytes(
    layers: int,
    kv_heads: int,
    head_dim: int,
    tokens: int,
    batch: int = 1,
    bytes_per_value: int = 2,
) -> int:
    """Bytes of the keys and values of all layers.

    Two vectors (a key and a value) a layer, key head and token. With as many key heads as query
    heads this is multi-head attention, with fewer grouped-query attention (J. Ainslie et al.,
    2023, arXiv:2305.13245), with one multi-query attention.

    Args:
        layers: number of layers.
        kv_heads: heads that have keys and values of their own.
        head_dim: numbers in a key, and in a value.
        tokens: positions held.
        batch: number of sequences.
        bytes_per_value: 2 for bfloat16 and float16, 4 for float32.

    Returns:
        Bytes.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if one is negative (0 tokens is fine), or a size 0.
    """
    return 2 * latent_cache_bytes(
        layers,
        check_count("kv_heads", kv_heads, 1) * check_count("head_dim", head_dim, 1),
        tokens,
        batch,
        bytes_per_value,
    )


def latent_cache_bytes(
    layers: int, latent_dim: int, tokens: int, batch: int = 1, bytes_per_value: int = 2
) -> int:
    """Bytes of a cache that keeps one vector a layer and token, as latent attention does.

    Source: DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434, section 2.1: the vector is the
    compressed latent (512 numbers there) and one rotary key that all heads share (64).

    Args:
        layers: as for `kv_cache_bytes`.
        latent_dim: numbers a token in each layer, all parts together.
        tokens: as for `kv_cache_bytes`.
        batch: as for `kv_cache_bytes`.
        bytes_per_value: as for `kv_cache_bytes`.

    Returns:
        Bytes.
    """
    return (
        check_count("layers", layers, 1)
        * check_count("latent_dim", latent_dim, 1)
        * check_count("tokens", tokens, 0)
        * check_count("batch", batch, 1)
        * check_count("bytes_per_value", bytes_per_value, 1)
    )


def attention_flops(
    n: int,
    d: int,
    heads: int = 1,
    batch: int = 1,
    causal: bool = False,
    cached: int = 0,
) -> int:
    """Operations of the two products of attention, Q K^T and weights V, in one layer.

    Each visible pair of a query and a key costs 2 d operations in each product. Softmax,
    projections and everything outside attention are not counted. The causal count is the exact
    one, n(n + 1)/2 pairs without a cache; benchmarks usually report n^2/2.

    Args:
        n: number of queries (new positions).
        d: numbers a head, in keys and values alike.
        heads: number of query heads (shared keys save memory, not operations).
        batch: number of sequences.
        causal: count only the keys up to each query; otherwise all of them.
        cached: keys that were there before, all visible.

    Returns:
        Operations.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if one is out of range.
    """
    n, cached = check_count("n", n, 0), check_count("cached", cached, 0)
    pairs = n * cached + (n * (n + 1) // 2 if causal else n * n)
    size = check_count("d", d, 1) * check_count("heads", heads, 1) * check_count("batch", batch, 1)
    return 4 * pairs * size


def decode_bound(
    bandwidth: float, weight_bytes: float, cache_bytes: float = 0.0, batch: int = 1
) -> float:
    """The most tokens a second that decoding can reach, whatever the processor computes.

    Each step must read every weight once (for the whole batch) and the cache of every sequence,
    so it takes at least (weight_bytes + batch * cache_bytes) / bandwidth seconds and gives
    `batch` tokens. Source: R. Pope et al., "Efficiently Scaling Transformer Inference", 2022,
    arXiv:2211.05102, section 2.

    Args:
        bandwidth: bytes a second that memory delivers, above 0.
        weight_bytes: bytes of all weights that a step uses, at least 0.
        cache_bytes: bytes of the cache of *one* sequence, at least 0.
        batch: number of sequences.

    Returns:
        Tokens a second, of all sequences together.

    Raises:
        ValueError: if a number is out of range, or there is nothing to read.
    """
    check_count("batch", batch, 1)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: expected bytes a second, above 0; got {bandwidth}")
    for name, value in (("weight_bytes", weight_bytes), ("cache_bytes", cache_bytes)):
        if not value >= 0:
            raise ValueError(f"{name}: expected at least 0; got {value}")
    read = weight_bytes + batch * cache_bytes
    if read == 0:
        raise ValueError("weight_bytes: expected something to read; got 0 bytes in all")
    return batch * bandwidth / read
