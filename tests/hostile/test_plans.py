"""Plans that nobody would write in good faith: an error, or the right answer, and never a crash."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import _native, ops
from hornbeam.errors import ArgumentError, HornbeamError, InternalError, ShapeError
from tests.hostile.operations import DIM, HEADS, KV_HEADS, LAYER, ROWS, SLOTS, chunks, plan_arrays, random
from tests.ops import test_attention, test_attention_mass
from tests.reference import rows as reference_rows

NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([-(2**31), 2**31 - 1, 2**31 - 8, 2**12 - 1, 2**12, 2**16 - 1, 2**16, 2**30]),
    # first | count << 16, with and without a format
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).map(
        lambda t: t[0] | t[1] << 12 | t[2] << 16
    ),
    st.integers(-(2**31), 2**31 - 1),
)


@st.composite
def hostile_arrays(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """A good plan in which some numbers are others, or rows of an array are gone or doubled."""
    arrays = plan_arrays()
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(arrays)))
        array = arrays[name].copy()
        change = draw(st.sampled_from(["number", "number", "number", "cut", "double"]))
        if change == "number" and array.size:
            array.flat[draw(st.integers(0, array.size - 1))] = draw(NUMBERS)
        elif change == "cut":
            array = array[: draw(st.integers(0, len(array)))].copy()
        elif change == "double" and len(array):
            array = np.concatenate([array, array[draw(st.integers(0, len(array) - 1)) :]])
        arrays[name] = array
    return arrays


def attempt(work: Callable[[], Any]) -> Any:
    """What it gives, or None where it is refused. A fault of ours is no refusal."""
    try:
        return work()
    except InternalError:
        raise
    except (HornbeamError, TypeError, ValueError, OverflowError):
        return None


def check_everything(plan: _native.Plan, layer: int, window: int | None) -> None:
    """All operations that take a plan, against the reference where they take this one."""
    q, pool, named = random(plan.num_rows, HEADS, DIM), chunks(), {"layer": layer, "num_kv_heads": KV_HEADS}
    if attempt(lambda: ops.tree_attention(q, pool, plan, window=window, **named)) is not None:
        case = test_attention.Case(q, pool, plan, layer, KV_HEADS, {"window": window} if window else {})
        with np.errstate(invalid="ignore", over="ignore"):
            # A plan may name codes where there are none. What such memory says may be no number.
            if all(bool(torch.isfinite(torch.as_tensor(part)).all()) for part in case.expected()):
                test_attention.check(case)
                test_attention_mass.check(case, list(range(0, plan.num_rows, 2)))
    else:
        attempt(lambda: ops.attention_mass(q, pool, plan, range(plan.num_rows), window=window, **named))
    k, v = random(plan.num_rows, KV_HEADS, DIM, seed=1), random(plan.num_rows, KV_HEADS, DIM, seed=2)
    before = [chunk.clone() for chunk in pool]

    def write() -> bool:
        ops.write_rows(k, v, pool, plan, **named)
        return True

    if attempt(write):
        reference_rows.write_rows(k, v, before, plan.row_slots, layer)
    assert all(torch.equal(a, b) for a, b in zip(pool, before, strict=True))
    attempt(lambda: _native.CudaPlan(plan, pool, HEADS, KV_HEADS, 4).words)


@settings(max_examples=300, deadline=None)
@given(
    arrays=hostile_arrays(), layer=st.integers(0, 1), window=st.sampled_from([None, 1, 6, 2**31, 2**32 - 1])
)
def test_a_plan_is_refused_or_followed_rightly(
    arrays: dict[str, np.ndarray], layer: int, window: int | None
) -> None:
    plan = attempt(lambda: _native.Plan(**arrays))
    if plan is not None:
        check_everything(plan, layer, window)


def test_the_good_plan_is_followed() -> None:
    check_everything(_native.Plan(**plan_arrays()), 1, None)


@settings(max_examples=100, deadline=None)
@given(arrays=hostile_arrays(), at=st.integers(0, 200), word=st.integers(-(2**31), 2**31 - 1))
def test_words_say_all_of_a_plan(arrays: dict[str, np.ndarray], at: int, word: int) -> None:
    plan = attempt(lambda: _native.Plan(**arrays)) or _native.Plan(**plan_arrays())
    again = _native.Plan.from_words(torch.from_numpy(plan.words))
    assert all(np.array_equal(getattr(again, name), getattr(plan, name)) for name in plan_arrays())
    # One word is another: it is a plan that can be followed, or it is refused.
    words = plan.words
    words[at % len(words)] = word
    changed = attempt(lambda: _native.Plan.from_words(words))
    assert changed is None or np.array_equal(changed.words, words)


@pytest.mark.parametrize(
    ("array", "at", "number", "match"),
    [
        ("entries", (0, 1), 0, "entry"),
        ("entries", (0, 1), 8 << 16 | 8 << 12, "entry"),
        ("entries", (0, 1), 9 << 16 | 4090, "entry"),
        ("entries", (0, 2), -1, "entry"),
        ("entries", (0, 2), 2**31 - 8, "entry"),
        ("entries", (0, 3), 0, "entry"),
        ("entries", (5, 0), 6, "entries of an own read"),
        ("entries", (5, 1), 3 << 16 | 1, "entries of an own read"),
        ("head_ranges", (2, 1), 7, "head range"),
        ("head_ranges", (2, 0), 5, "head range"),
        ("reads", (0, 1), 7, "read"),
        ("reads", (0, 3), 4, "read"),
        ("reads", (0, 4), 7, "num_keys of a read is 7, expected 8"),
        ("reads", (1, 4), 6, "num_keys of a read is 6, expected 5"),
        ("reads", (1, 1), 5, "read"),
        ("reads", (2, 4), 2, "num_keys of a read is 2, expected 3"),
        ("reads", (2, 5), 3, "read"),
        ("reads", (0, 5), 4, "read"),
        ("row_positions", 1, -1, "row_positions"),
        ("row_end", 1, 1, "row_end"),
        ("row_end", 2, 4, "row_end"),
    ],
)
def test_each_fault_of_a_plan_is_named(array: str, at: Any, number: int, match: str) -> None:
    arrays = plan_arrays()
    arrays[array][at] = number
    with pytest.raises(ArgumentError, match=match):
        _native.Plan(**arrays)


def test_more_keys_than_a_plan_can_count_are_refused() -> None:
    """Many reads of the same entries: every one is good, their sum is not."""
    arrays = plan_arrays()
    many = 2**31 // 4095 // 64 + 1
    arrays["entries"] = np.concatenate(
        [np.tile(np.array([[0, 4095 << 16, 0, -1]], np.int32), (64, 1)), arrays["entries"][5:]]
    )
    read = np.array([[0, 64, 0, 3, 64 * 4095, 0, -1, 0]], np.int32)
    arrays["reads"] = np.tile(read, (many, 1))
    with pytest.raises(ArgumentError, match="keys of all reads"):
        _native.Plan(**arrays)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(
        *[st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.integers(0, 33)]
    ),
    name=st.sampled_from(
        ["tree_attention", "attention_mass", "write_rows", "move_rows", "move_page_rows", "gather_rows"]
    ),
)
def test_pools_of_any_shape(shape: tuple[int, ...], name: str) -> None:
    pool, plan = [torch.zeros(shape)], _native.Plan(**plan_arrays())
    q, table = random(ROWS, HEADS, shape[-1]), np.zeros((1, 4), np.int32)
    works = {
        "tree_attention": lambda: ops.tree_attention(q, pool, plan, **LAYER),
        "attention_mass": lambda: ops.attention_mass(q, pool, plan, [0], **LAYER),
        "write_rows": lambda: ops.write_rows(q[:, :KV_HEADS], q[:, :KV_HEADS], pool, plan, **LAYER),
        "move_rows": lambda: ops.move_rows(pool, table),
        "move_page_rows": lambda: ops.move_page_rows(pool, table),
        "gather_rows": lambda: ops.gather_rows(pool, np.ones(1, np.int32), table[:, :3].copy()),
    }
    attempt(works[name])


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(
        ["move_rows", "move_page_rows", "move_page_rows_at_once", "quantise_pages", "gather_rows"]
    ),
    table=st.lists(st.tuples(*[NUMBERS] * 4), min_size=1, max_size=3),
)
def test_moves_out_of_the_pool_are_refused_and_change_nothing(
    name: str, table: list[tuple[int, ...]]
) -> None:
    pool, before = chunks(), chunks()
    moves = np.array(table, np.int64).astype(np.int32)
    limits = np.array([16 if "page" in name and name != "move_rows" else 8, SLOTS])
    limits = np.array([2 * 4 * 4, SLOTS]) if name != "move_rows" else np.array([8, SLOTS])
    works = {
        "move_rows": lambda: ops.move_rows(pool, moves),
        "move_page_rows": lambda: ops.move_page_rows(pool, moves),
        "move_page_rows_at_once": lambda: ops.move_page_rows_at_once(pool, moves),
        "quantise_pages": lambda: ops.quantise_pages(pool, moves, "int8", by_page=True),
        "gather_rows": lambda: ops.gather_rows(pool, np.array([len(moves)], np.int32), moves[:, :3].copy()),
    }
    places = moves.reshape(-1, 2)
    outside = ((places < 0) | (places >= limits)).any()
    if outside and name not in ("gather_rows", "quantise_pages"):
        with pytest.raises((ArgumentError, ShapeError)):
            works[name]()
        assert all(torch.equal(a, b) for a, b in zip(pool, before, strict=True))
    else:
        attempt(works[name])
