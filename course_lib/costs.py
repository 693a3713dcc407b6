"""What attention and its cache cost, counted and not measured (chapters 5 and 7).

Bytes are bytes (1 GB = 10**9, 1 GiB = 2**30); a multiplication and the addition that follows
count as two operations.
"""

from course_lib.validate import check_count


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


def attention_bytes(
    n: int, d: int, heads: int = 1, batch: int = 1, bytes_per_value: int = 2, tiled: bool = True
) -> int:
    """Bytes that one attention layer must at least move between memory and processor.

    Both ways read Q, K and V and write the output once: 4 n d numbers a head. The way that holds
    the matrix also writes the scores, reads them for the softmax, writes the weights and reads
    them for the second product: 4 n^2 numbers more. That is the least: a separate mask, a softmax
    in several passes, and a tiled kernel that reads keys again for every block of queries from
    beyond its cache move more.

    Source: T. Dao et al., "FlashAttention", 2022, arXiv:2205.14135, sections 2.2 and 3.2.

    Args:
        n: queries, and as many keys.
        d: numbers a head, in keys and values alike.
        heads: number of heads.
        batch: number of sequences.
        bytes_per_value: 2 for bfloat16 and float16, 4 for float32.
        tiled: without the matrix; otherwise with it.

    Returns:
        Bytes.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if one is out of range.
    """
    n, d = check_count("n", n, 0), check_count("d", d, 1)
    size = check_count("heads", heads, 1) * check_count("batch", batch, 1)
    numbers = 4 * n * d + (0 if tiled else 4 * n * n)
    return numbers * size * check_count("bytes_per_value", bytes_per_value, 1)


def tile_bytes(
    n: int,
    d: int,
    block_q: int,
    heads: int = 1,
    batch: int = 1,
    bytes_per_value: int = 2,
    causal: bool = True,
    cached: int = 0,
) -> int:
    """Bytes that the programs of a tiled kernel fetch and write, from whichever level has them.

    `attention_bytes` counts each key once. A program has a block of queries, though, and every
    program fetches the keys that its block sees: 4 * block_q * d operations for 2 * d numbers, so
    in 16-bit types block_q operations a byte, however long the text. What L2 still holds does not
    come from memory again; heads that share keys share that too, not the fetches.

    Args:
        n: number of queries; they come after the cached keys.
        d: numbers a head, in keys and values alike.
        block_q: queries a program, at least 1.
        heads: number of query heads.
        batch: number of sequences.
        bytes_per_value: 2 for bfloat16 and float16, 4 for float32.
        causal: fetch only the keys up to the last query of the block (to the key, not to the
            tile); otherwise all.
        cached: keys that were there before, all visible.

    Returns:
        Bytes: queries and outputs once, keys and values once a block of queries.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if one is out of range.
    """
    n, cached = check_count("n", n, 0), check_count("cached", cached, 0)
    block_q = check_count("block_q", block_q, 1)
    ends = (min(first + block_q, n) if causal else n for first in range(0, n, block_q))
    keys = sum(cached + end for end in ends)
    size = check_count("d", d, 1) * check_count("heads", heads, 1) * check_count("batch", batch, 1)
    return 2 * (n + keys) * size * check_count("bytes_per_value", bytes_per_value, 1)


def decode_intensity(
    heads: int,
    kv_heads: int,
    head_dim: int = 128,
    new_tokens: int = 1,
    bytes_per_value: float = 2,
    latent_dim: int | None = None,
) -> float:
    """Operations for each byte of the cache, when a few new tokens attend to a long one.

    Every key that is read serves all query heads that share it, and all new tokens of a sequence:
    one token and as many key heads as query heads make 1 operation a byte in 16-bit types; groups
    of heads and drafted tokens (speculative decoding) multiply that. Latent attention, absorbed,
    reads one vector for all heads, whose first part serves as the value again (DeepSeek-AI,
    "DeepSeek-V2", 2024, arXiv:2405.04434, section 2.1: 512 numbers and 64 of a rotary key, 128
    heads). Splitting the keys over processors (Flash-Decoding) leaves the intensity as it is.

    Args:
        heads: query heads.
        kv_heads: heads with keys and values of their own, a divisor of `heads`; 1 for latent
            attention.
        head_dim: numbers a value; with `latent_dim` the part of the vector that is the value.
        new_tokens: queries a sequence, 1 and the length of the draft.
        bytes_per_value: 2 for bfloat16 and float16, 1 for FP8.
        latent_dim: numbers a cached vector, where keys and values are one vector.

    Returns:
        Operations a byte, in the limit of a long cache.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if one is out of range or `kv_heads` does not divide `heads`.
    """
    heads, kv_heads = check_count("heads", heads, 1), check_count("kv_heads", kv_heads, 1)
    if heads % kv_heads:
        raise ValueError(f"kv_heads: expected a divisor of {heads}; got {kv_heads}")
    if not bytes_per_value > 0:
        raise ValueError(f"bytes_per_value: expected more than 0; got {bytes_per_value}")
    value = check_count("head_dim", head_dim, 1)
    key = value if latent_dim is None else check_count("latent_dim", latent_dim, value)
    stored = 2 * value if latent_dim is None else key
    rows = heads // kv_heads * check_count("new_tokens", new_tokens, 1)
    return 2 * (key + value) * rows / (stored * bytes_per_value)


def matrix_bytes(n: int, heads: int = 1, batch: int = 1, bytes_per_value: int = 4) -> int:
    """Bytes of one n x n matrix of scores (or of weights) for all heads of one layer.

    Args:
        n: queries, and as many keys.
        heads: number of heads.
        batch: number of sequences.
        bytes_per_value: 2 for bfloat16 and float16, 4 for float32.

    Returns:
        Bytes.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if one is out of range.
    """
    n, size = check_count("n", n, 0), check_count("heads", heads, 1)
    size *= check_count("batch", batch, 1) * check_count("bytes_per_value", bytes_per_value, 1)
    return n * n * size


def causal_tile_share(blocks: int) -> float:
    """Share of square tiles that a causal kernel visits: (n + 1) / 2n for n block rows.

    Args:
        blocks: number of block rows n, at least 1, of a square mask that they fill exactly.

    Returns:
        The share; 1 for a single tile, towards one half for many.

    Raises:
        TypeError: if `blocks` is not an integer.
        ValueError: if it is below 1.
    """
    blocks = check_count("blocks", blocks, 1)
    return (blocks + 1) / (2 * blocks)


def roofline(intensity: float, peak_flops: float, bandwidth: float) -> float:
    """The most operations a second that a machine allows at an arithmetic intensity.

    min(peak, intensity * bandwidth): below the ridge, peak / bandwidth, memory sets the limit.
    Source: S. Williams et al., "Roofline", Communications of the ACM 52 (4), 2009.

    Args:
        intensity: operations for each byte moved, at least 0.
        peak_flops: operations a second that the processor can do, above 0.
        bandwidth: bytes a second that memory delivers, above 0.

    Returns:
        Operations a second.

    Raises:
        ValueError: if a number is out of range.
    """
    if not intensity >= 0:
        raise ValueError(f"intensity: expected at least 0; got {intensity}")
    for name, value in (("peak_flops", peak_flops), ("bandwidth", bandwidth)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0; got {value}")
    return min(peak_flops, intensity * bandwidth)
