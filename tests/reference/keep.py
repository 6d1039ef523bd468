"""Scores, splits, reductions and codes in float64, from the papers, by their definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

Array = np.ndarray


# --- attention -----------------------------------------------------------------------------------


def probabilities(keys: Array, queries: Array, scale: float) -> Array:
    """`[H, W, N]`: causal softmax of the last W rows. keys `[Hk, N, D]`, queries `[H, W, D]`."""
    (heads, tokens, _), (query_heads, rows, _) = keys.shape, queries.shape
    out = np.zeros((query_heads, rows, tokens))
    for h in range(query_heads):
        for row in range(rows):
            seen = tokens - rows + row + 1
            logits = scale * keys[h // (query_heads // heads), :seen] @ queries[h, row]
            weights = np.exp(logits - logits.max())
            out[h, row, :seen] = weights / weights.sum()
    return out


def grouped(per_query_head: Array, heads: int) -> Array:
    """Mean over the query heads of each kv head."""
    return per_query_head.reshape(heads, -1, *per_query_head.shape[1:]).mean(1)


def pool(x: Array, kernel: int) -> Array:
    """Average pooling along the last axis, zeros beyond the ends, the divisor always the kernel."""
    half = kernel // 2
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)])
    return np.stack([padded[..., i : i + kernel].mean(-1) for i in range(x.shape[-1])], -1)


# --- scores, [Hk, N] -----------------------------------------------------------------------------


def window_mass(keys, values, queries, scale, window=64, kernel=5):
    """SnapKV, listing 1: the pool covers the tokens before the window."""
    heads, tokens, _ = keys.shape
    rows = min(window, tokens)
    mean = grouped(probabilities(keys, queries, scale)[:, queries.shape[1] - rows :].mean(1), heads)
    before = mean[:, : tokens - rows]
    return np.concatenate([pool(before, kernel) if before.size else before, mean[:, tokens - rows :]], 1)


def accumulated_mass(keys, values, queries, scale, across_heads=False):
    """H2O, and with across_heads PrefixKV's importance."""
    assert queries.shape[1] == keys.shape[1]
    total = probabilities(keys, queries, scale).sum(1)
    if across_heads:
        return np.repeat(total.mean(0, keepdims=True), keys.shape[0], 0)
    return grouped(total, keys.shape[0])


def normalised_mass(keys, values, queries, scale, rows):
    """ZipCache, equation of the normalised attention score, over the probe rows given."""
    heads, tokens, _ = keys.shape
    probs = probabilities(keys, queries, scale)
    first = tokens - queries.shape[1]
    total = sum(probs[:, row - first] for row in rows)
    visible = np.array([sum(row >= key for row in rows) for key in range(tokens)])
    return grouped(total, heads) / visible


def last_query(keys, values, queries, scale):
    """TOVA: one ranking a layer."""
    mean = probabilities(keys, queries, scale)[:, -1].mean(0)
    return np.repeat(mean[None], keys.shape[0], 0)


def global_local(keys, values, queries, scale, window=32, kernel=5):
    """EMS as we read it."""
    heads, tokens, _ = keys.shape
    probs = probabilities(keys, queries, scale)
    local = pool(grouped(probs[:, -min(window, tokens) :].mean(1), heads), kernel)
    everywhere = grouped(probs.sum(1), heads) / np.arange(tokens, 0, -1)
    ratio = local.mean(1, keepdims=True) / everywhere.mean(1, keepdims=True)
    return np.maximum(local, everywhere * ratio)


def window_tokens(keys, values, queries, scale, window=8, suffix=16, pool="mean"):
    """WindowKV: every token has the score of its window; heads of a group are averaged first."""
    heads, tokens, _ = keys.shape
    rows = min(suffix, tokens)
    mass = grouped(probabilities(keys, queries, scale)[:, queries.shape[1] - rows :].mean(1), heads)
    out = np.zeros(tokens)
    for begin, end in [(0, tokens - rows), (tokens - rows, tokens)]:
        for at in range(begin, end, window):
            part = -np.sort(-mass[:, at : min(at + window, end)], axis=1)
            if pool == "max":
                part = part[:, : max(1, min(window // 2, part.shape[1]))]
            out[at : min(at + window, end)] = part.mean(1).mean()
    return np.repeat(out[None], heads, 0)


def expected_attention(
    keys, values, queries, scale, future=512, sinks=4, epsilon=0.0, inverse_frequencies=None
):
    """The Gaussian moment formula, rotations as complex matrices. Sinks take no part in the softmax."""
    heads, tokens, _ = keys.shape
    positions = np.arange(tokens - queries.shape[1], tokens)
    out = np.zeros((len(queries), tokens))
    for h, head in enumerate(queries):
        mean, covariance = expected_queries(head, positions, tokens, future, sinks, inverse_frequencies)
        k = keys[h // (len(queries) // heads)]
        logits = scale * k @ mean + 0.5 * scale**2 * np.einsum("nd,de,ne->n", k, covariance, k)
        if tokens > sinks:
            weights = np.exp(logits[sinks:] - logits[sinks:].max())
            out[h, sinks:] = weights / weights.sum()
    return (grouped(out, heads) + epsilon) * np.linalg.norm(values, axis=-1)


def expected_queries(queries, positions, num_seen, future, sinks, inverse_frequencies):
    """Mean and covariance that the queries of one head will have, from those `[W, D]` at ``positions``."""
    dim = queries.shape[1]
    rotation = np.eye(dim)
    if inverse_frequencies is not None:
        queries = np.stack(
            [rope(q, -int(p), inverse_frequencies) for q, p in zip(queries, positions, strict=True)]
        )
        ahead = range(num_seen, num_seen + future)
        turned = [[rope(unit, p, inverse_frequencies) for unit in np.eye(dim)] for p in ahead]
        rotation = np.mean(turned, 0).T
    used = positions >= sinks
    used[-1] = True
    used = queries[used]
    covariance = np.cov(used.T, bias=True).reshape(dim, dim)
    return rotation @ used.mean(0), rotation @ covariance @ rotation.T


def rope(x, position, inverse_frequencies):
    """Llama's rotation: element i is paired with element i + D/2."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * np.asarray(inverse_frequencies))
    return np.concatenate([turned.real, turned.imag])


def key_difference(keys, values, queries, scale):
    """KeyDiff."""
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    anchor = unit.mean(1, keepdims=True)
    return -(unit * anchor).sum(-1) / np.linalg.norm(anchor, axis=-1)


def key_norm(keys, values, queries, scale):
    """Knorm."""
    return -np.linalg.norm(keys, axis=-1)


def position(keys, values, queries, scale):
    """StreamingLLM."""
    return np.repeat(np.arange(keys.shape[1], dtype=float)[None], keys.shape[0], 0)


# --- selection -----------------------------------------------------------------------------------


def kept_tokens(scores, budget, protected=(0, 0, 0), unit=1):
    """Indices of one plane, by sorting."""
    tokens = len(scores)
    if budget >= tokens:
        return list(range(tokens))
    sinks, recent, percent = protected
    recent = min(budget, max(recent, budget * percent // 100))
    sinks = min(budget - recent, sinks)
    units = [list(range(at, min(at + unit, tokens - recent))) for at in range(sinks, tokens - recent, unit)]
    ranked = sorted(units, key=lambda members: (-max(scores[i] for i in members), members[0]))
    chosen = ranked[: (budget - sinks - recent) // unit]
    return sorted(
        [*range(sinks), *range(tokens - recent, tokens), *(i for members in chosen for i in members)]
    )


def apportion(total, weights, floors, caps):
    """Largest remainders with floors and caps, in fractions."""
    if total <= sum(floors):
        weights, floors, caps = floors, [0] * len(floors), floors
    shares = list(floors)
    rest = min(total, sum(caps)) - sum(floors)
    open_ = {i for i in range(len(caps)) if caps[i] > floors[i]}
    while rest > 0 and open_:
        sum_ = sum(weights[i] for i in open_)
        part = {
            i: Fraction(rest) * (Fraction(weights[i], sum_) if sum_ else Fraction(1, len(open_)))
            for i in open_
        }
        full = {i for i in open_ if part[i] >= caps[i] - floors[i]}
        if not full:
            for i in open_:
                shares[i] = floors[i] + math.floor(part[i])
            left = rest - sum(math.floor(part[i]) for i in open_)
            for i in sorted(open_, key=lambda i: (-(part[i] - math.floor(part[i])), i))[:left]:
                shares[i] += 1
            return shares
        for i in full:
            shares[i] = caps[i]
            rest -= caps[i] - floors[i]
        open_ -= full
    return shares


# --- splits, budgets [L][Hk] ---------------------------------------------------------------------


def pyramid(layers, heads, tokens, total, floor, beta=20):
    """PyramidKV: arithmetic layer budgets beyond what is protected."""
    last = Fraction(1, beta)
    first = 2 - last
    weights = [first - (first - last) * Fraction(i, max(layers - 1, 1)) for i in range(layers)]
    return _by_layer(weights, heads, tokens, total, floor)


def fitted_pyramid(layers, heads, tokens, total, window, beta=20):
    """PyramidKV as kvpress 0.5.5 computes it, with exact sums."""
    mean = Fraction(total, layers * heads)
    last = mean / beta
    first = 2 * mean - last
    if first >= tokens - window:
        first = tokens - window
        last = 2 * mean - first
    if not tokens >= first >= last >= window:
        first = last = Fraction(1)
    weights = [first - (first - last) * Fraction(i, max(layers - 1, 1)) for i in range(layers)]
    return _by_layer(weights, heads, tokens, total, 0)


def layer_groups(layers, heads, tokens, total, floor, size=8, beta=14):
    """WindowKV: arithmetic group budgets."""
    groups = -(-layers // size)
    last = min(Fraction(size, beta), Fraction(1))
    first = 2 - last
    weights = [first - (first - last) * Fraction(i // size, max(groups - 1, 1)) for i in range(layers)]
    return _by_layer(weights, heads, tokens, total, floor)


def _by_layer(weights, heads, tokens, total, floor):
    flat = [weight for weight in weights for _ in range(heads)]
    scale = math.lcm(*(w.denominator for w in flat))
    integers = [int(w * scale) for w in flat]
    return apportion(total, integers, [floor] * len(flat), [tokens] * len(flat))


def prefix_lengths(scores, floor, columns):
    """PrefixKV by bisection: scores `[L, N]`; tokens a layer keeps, at most ``columns`` in sum, and the
    greatest prefix for which that holds."""
    sorted_ = -np.sort(-scores, axis=1)
    before = (np.cumsum(sorted_, axis=1) - sorted_) / sorted_.sum(1, keepdims=True)

    def lengths(p):
        return np.maximum(floor, (before < p).sum(1))

    low, high = 0.0, 2.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if lengths(middle).sum() <= columns else (low, middle)
    return lengths(low)


def competition(scores, budget, reserved):
    """AdaKV, algorithm 1: counts of the top ``budget`` over all heads, after the top ``reserved`` of each."""
    items = []
    counts = [reserved] * len(scores)
    for h, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        items += [(-row[i], h, i) for i in order[reserved:]]
    for _, h, _ in sorted(items)[: budget - reserved * len(scores)]:
        counts[h] += 1
    return counts


# --- reductions ----------------------------------------------------------------------------------


def cosines(keys, evicted, kept):
    """`[E, K]`."""
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    return unit[evicted] @ unit[kept].T


def merge_weights(rule, keys, values, scores, kept, candidates=1.0, threshold=None):
    """`[K, N]`: row k says how much of each original token the kept slot k holds; and whether keys merge."""
    tokens = len(keys)
    evicted = [i for i in range(tokens) if i not in set(kept)]
    raw = np.zeros((len(kept), tokens))
    if rule == "drop" or not evicted or not kept:
        raw[range(len(kept)), kept] = 1
        return raw, False
    near = cosines(keys, evicted, kept)
    if rule == "evict_then_merge":
        threshold = 0.6 if threshold is None else threshold
        raw[range(len(kept)), kept] = scores[kept]
        best = sorted(range(len(evicted)), key=lambda e: (-scores[evicted[e]], e))[
            : int(candidates * len(kept))
        ]
        for e in best:
            if near[e].max() >= threshold:
                raw[near[e].argmax(), evicted[e]] = scores[evicted[e]]
    elif rule == "value_merge":
        raw[range(len(kept)), kept] = 1
        norm = np.linalg.norm(values, axis=1)
        for e, i in enumerate(evicted):
            slot = near[e].argmax()
            if near[e, slot] > (threshold or 0.0):
                raw[slot, i] = near[e, slot] * norm[i] / (norm[i] + norm[kept[slot]])
    elif rule == "similarity_merge":
        raw[range(len(kept)), kept] = np.e
        mean = near.max(1).mean()
        for e, i in enumerate(evicted):
            if near[e].max() >= mean:
                raw[near[e].argmax(), i] = np.exp(near[e].max())
    return raw / raw.sum(1, keepdims=True), rule != "value_merge"


# --- codes ---------------------------------------------------------------------------------------


def round_trip(x, bits, tokens, channels):
    """Asymmetric uniform codes by block: what decoding gives, and the step of every element."""
    out, steps = np.zeros_like(x), np.zeros_like(x)
    for i in range(0, x.shape[0], tokens):
        for j in range(0, x.shape[1], channels):
            block = x[i : i + tokens, j : j + channels]
            step = (block.max() - block.min()) / (2**bits - 1)
            codes = np.rint((block - block.min()) / step) if step > 0 else np.zeros_like(block)
            out[i : i + tokens, j : j + channels] = block.min() + codes * step
            steps[i : i + tokens, j : j + channels] = step
    return out, steps


# --- random probe rows ---------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011)."""
    c, k, mask = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def probe_rows(tokens, recent, random, seed):
    """The last ``recent`` share of rows, and of the others those of the smallest random words."""
    first = tokens - min(max(int(tokens * recent), 1), tokens)
    words = [(philox([row // 4, tokens, 0, 5 << 24], [seed, 0])[row % 4], row) for row in range(first)]
    return sorted(row for _, row in sorted(words)[: int(tokens * random)]) + list(range(first, tokens))
