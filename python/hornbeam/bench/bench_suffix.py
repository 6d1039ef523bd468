"""The suffix draft source at a long history: microseconds a token, bytes a token.

Microseconds are CPU time of the one thread that works, calls from Python included, so that other
processes disturb them little (they still share the caches).

Texts: ``uniform`` draws tokens at random from 50,000 ids (few matches), ``zipf`` from a long-tailed
distribution (many short contexts, the costly case), ``edits`` repeats a document with changes, as
an editing or agent session does (long matches), ``period`` repeats 100 tokens.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

from hornbeam.speculation import CostCurve, MeasuredGain, Suffix, build_corpus, open_corpus, save_corpus


def texts(num_tokens: int) -> dict[str, list[int]]:
    """The four texts, the same on every run."""
    random = np.random.default_rng(0)
    document = random.zipf(1.3, 20_000) % 50_000
    edits = []
    for _ in range(-(-num_tokens // len(document))):
        document = document.copy()
        changed = random.integers(0, len(document), 200)
        document[changed] = random.integers(0, 50_000, 200)
        edits.append(document)
    return {
        "uniform": random.integers(0, 50_000, num_tokens).tolist(),
        "zipf": (random.zipf(1.3, num_tokens) % 50_000).tolist(),
        "edits": np.concatenate(edits)[:num_tokens].tolist(),
        "period": np.tile(document[:100], num_tokens // 100 + 1)[:num_tokens].tolist(),
    }


def grow(text: list[int], tail: int) -> dict[str, float]:
    """Indexes all but ``tail`` tokens at once, then appends and proposes one token at a time."""
    history = len(text) - tail
    started = time.thread_time()
    drafter = Suffix(max_length=16).start(text[:history])
    built = time.thread_time()
    for token in text[history:]:
        drafter.extend([token])
    appended = time.thread_time()
    result = {
        "build_us_per_token": (built - started) / history * 1e6,
        "append_us_per_token": (appended - built) / tail * 1e6,
        "bytes_per_token": drafter.num_bytes / drafter.num_tokens,
    }
    drafter = Suffix(max_length=16).start(text[:history])
    drafted = 0
    started = time.thread_time()
    for token in text[history:]:
        drafted += len(drafter.propose([token], 16))
        drafter.extend([token])
    result["append_and_propose_us_per_token"] = (time.thread_time() - started) / tail * 1e6
    result["mean_proposal"] = drafted / tail
    return result


def from_file(text: list[int], tail: int) -> dict[str, float]:
    """Indexes all but ``tail`` tokens into a file, maps it, and drafts the tail from it: chains and trees."""
    history = len(text) - tail
    with tempfile.TemporaryDirectory() as folder:
        started = time.thread_time()
        corpus = build_corpus([text[:history]])
        result = {"corpus_build_us_per_token": (time.thread_time() - started) / history * 1e6}
        save_corpus(corpus, f"{folder}/corpus")
        corpus = open_corpus(f"{folder}/corpus")
        result["corpus_bytes_per_token"] = corpus.num_bytes / corpus.num_tokens
        for name, tree in (("chain", False), ("tree", True)):
            drafter = Suffix(max_length=16, corpus=corpus, tree=tree).start([])
            started = time.thread_time()
            for token in text[history:]:
                drafter.propose(token, 16)
                drafter.extend([token])
            result[f"corpus_append_and_propose_{name}_us_per_token"] = (
                (time.thread_time() - started) / tail * 1e6
            )
    return result


def stop_rule() -> dict[str, float]:
    """Microseconds a call of the stop rule, for one sequence and for 32, 16 drafted tokens each."""
    cost = CostCurve()
    for rows, seconds in [(1, 0.058), (2, 0.095), (16, 0.1), (32, 0.145), (64, 0.205), (512, 1.5)]:
        cost.observe(rows, seconds)
    stop = MeasuredGain().start(cost)
    proposal = Suffix(max_length=16).start(list(range(100)) * 2).propose([0])
    result = {}
    for batch in (1, 32):
        proposals = [proposal] * batch
        best = float("inf")
        for _ in range(5):
            started = time.thread_time()
            for _ in range(200):
                lengths = stop.choose(proposals)
                stop.observe(proposals, lengths, lengths, [0] * batch)
            best = min(best, (time.thread_time() - started) / 200)
        result[f"choose_and_observe_us_batch_{batch}"] = best * 1e6
    return result


def run(quick: bool = False) -> dict[str, dict[str, float]]:
    """All figures, at 10^6 tokens of history (10^5 when quick)."""
    num_tokens = 100_000 if quick else 1_000_000
    results = {}
    for name, text in texts(num_tokens).items():
        results[name] = {**grow(text, num_tokens // 20), **from_file(text, num_tokens // 20)}
    results["stop_rule"] = stop_rule()
    return results
