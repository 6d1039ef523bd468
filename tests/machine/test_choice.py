"""A kernel is chosen from many pairs of timings, and by none of them alone."""

from __future__ import annotations

import math
import random

import pytest

from hornbeam.machine.choice import MARGIN, PAIRS, WINS, Choice
from hornbeam.machine.rows import LAST_ROWS, bucket_of


def fed(pairs: list[tuple[float, float]]) -> Choice:
    choice = Choice("own")
    for own, other in pairs:
        choice.record({"own": own, "other": other})
    return choice


def test_a_faster_kernel_is_chosen_after_a_window_of_pairs() -> None:
    assert fed([(2.0, 1.0)] * (PAIRS - 1)).kernel == "own"
    choice = fed([(2.0, 1.0)] * PAIRS)
    assert (choice.kernel, choice.seconds, choice.ratios) == ("other", 1.0, {})


def test_no_single_pair_decides() -> None:
    wild = (100.0, 1.0)
    assert fed([(1.0, 1.0)] * PAIRS + [wild]).kernel == "own"
    assert fed([wild] * (WINS - 1) + [(1.0, 1.0)] * PAIRS).kernel == "own"
    # One that was interrupted keeps nothing back.
    assert fed([(2.0, 1.0)] * (PAIRS - 1) + [(1.0, 50.0)]).kernel == "other"


def test_less_than_the_margin_changes_nothing() -> None:
    assert fed([(1.0 + 0.9 * MARGIN, 1.0)] * 50).kernel == "own"
    assert fed([(1.0 + 1.1 * MARGIN, 1.0)] * PAIRS).kernel == "other"


def test_a_choice_is_undone_when_it_turns_out_slower() -> None:
    choice = fed([(2.0, 1.0)] * PAIRS)
    for _ in range(PAIRS):
        choice.record({"own": 1.0, "other": 3.0})
    assert choice.kernel == "own"


def test_old_pairs_are_forgotten() -> None:
    assert fed([(0.2, 1.0)] * 500 + [(2.0, 1.0)] * PAIRS).kernel == "other"


def test_equal_kernels_under_heavy_noise_rarely_change_places() -> None:
    noise = random.Random(1)
    changes = 0
    for _ in range(400):
        pairs = [(noise.lognormvariate(0, 0.5), noise.lognormvariate(0, 0.5)) for _ in range(PAIRS)]
        changes += fed(pairs).kernel != "own"
    at_most = sum(math.comb(PAIRS, wins) for wins in range(WINS, PAIRS + 1)) / 2**PAIRS
    assert changes / 400 <= 1.5 * at_most


def test_what_is_no_pair_of_the_chosen_one_is_not_counted() -> None:
    choice = Choice("own")
    for _ in range(PAIRS):
        choice.record({"third": 2.0, "other": 1.0})
    assert (choice.kernel, choice.pairs("other"), choice.ratio("other")) == ("own", 0, None)


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64, 65, 95, 96, 4096, 4097, 10**6])
def test_buckets_are_exact_up_to_16_and_keep_the_limits(rows: int) -> None:
    bucket = bucket_of(rows)
    last = LAST_ROWS[bucket] if bucket < len(LAST_ROWS) else math.inf
    below = LAST_ROWS[bucket - 1] if bucket else 0
    assert below < rows <= last
    assert rows > 16 or last == rows
