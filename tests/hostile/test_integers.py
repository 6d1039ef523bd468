"""Token ids, parents, accepted paths, indices: integers of any kind of array, and nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam import ops
from tests.hostile.kinds import Tagged, backwards, masked, packed, spaced, unaligned
from tests.hostile.operations import DIM, chunks, int32, plan, random

WIDTHS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
#: Honoured: the same integers, however they lie. Unsigned ones hold no -1.
MANNERS: dict[str, Callable[[list[int]], Any]] = {
    "tuple": tuple,
    "read-only": lambda ids: np.frombuffer(np.array(ids, np.int32).tobytes(), np.int32),
    "a subclass": lambda ids: torch.tensor(ids).as_subclass(Tagged),
    "numpy scalars": lambda ids: [np.int16(x) for x in ids],
}


def _manners(width: str) -> dict[str, Callable[[list[int]], Any]]:
    dtype, of_torch = np.dtype(width), getattr(torch, width)
    return {
        f"little-endian {width}": lambda ids: np.array(ids, dtype.newbyteorder("<")),
        f"big-endian {width}": lambda ids: np.array(ids, dtype.newbyteorder(">")),
        f"torch {width}": lambda ids: torch.tensor(ids, dtype=of_torch),
        f"unaligned {width}": lambda ids: unaligned(np.array(ids, dtype)),
        f"backwards {width}": lambda ids: backwards(np.array(ids, dtype)),
        f"spaced {width}": lambda ids: spaced(np.array(ids, dtype)),
    }


for _width in WIDTHS:
    MANNERS |= _manners(_width)

REFUSED: dict[str, Callable[[list[int]], Any]] = {
    "float32": lambda ids: np.array(ids, np.float32),
    "float64 tensor": lambda ids: torch.tensor(ids, dtype=torch.float64),
    "bfloat16": lambda ids: torch.tensor(ids, dtype=torch.bfloat16),
    "complex": lambda ids: np.array(ids, np.complex64),
    "bool": lambda ids: np.array(ids) > 0,
    "bool tensor": lambda ids: torch.tensor(ids) > 0,
    "list of floats": lambda ids: [float(x) for x in ids],
    "list of bools": lambda ids: [x > 0 for x in ids],
    "objects": lambda ids: np.array(ids, object),
    "dates": lambda ids: np.array(ids).astype("M8[s]"),
    "text": lambda ids: np.array([str(x) for x in ids]),
    "masked": lambda ids: masked(np.array(ids)),
    "records": lambda ids: np.zeros(len(ids), [("a", "i4"), ("b", "i4")]),
    "a field of packed records": lambda ids: packed(np.array(ids, np.int32)),
    "two dimensions": lambda ids: np.array([ids]),
    "no dimensions": lambda ids: np.array(ids[0]),
    "above int64": lambda ids: np.array([2**63 + 5] * len(ids), np.uint64),
    "a list above int64": lambda ids: [2**64] * len(ids),
    "sparse": lambda ids: torch.tensor(ids).to_sparse(),
    "meta": lambda ids: torch.empty(len(ids), dtype=torch.int64, device="meta"),
    "word": lambda ids: "abc",
    "nothing": lambda ids: object(),
}


def tree() -> hb.PrefixTree:
    return hb.PrefixTree(num_layers=1, num_kv_heads=2, head_dim=32, page_tokens=4)


def grown(ids: Any, parents: Any = None, accepted: Any = None) -> list[int]:
    """The tokens of a branch after one step."""
    branch = (own := tree()).branch()
    with own.step([(branch, ids, parents)]) as step:
        step.commit([range(len(ids)) if accepted is None else accepted])
    return branch.token_ids.tolist()


def compacted(keep: Any) -> list[int]:
    """The positions that a branch of 8 tokens shows after it was compacted."""
    branch = (own := tree()).branch()
    with own.step([(branch, list(range(8)), None)]) as step:
        step.commit([range(8)])
    own.compact(branch, own.nodes(branch)[0][0], keep, digest=1, by_head=False)
    return own._native.keys(branch._id, 0)[:, 3].tolist()


def condensed(keep: Any) -> list[int]:
    branch = (own := tree()).branch()
    with own.step([(branch, list(range(8)), None)]) as step:
        step.commit([range(8)])
    own.condense(branch, [keep, keep], digest=1)
    return own._native.keys(branch._id, 0)[:, 3].tolist()


def matched(ids: Any) -> int:
    branch = (own := tree()).branch()
    with own.step([(branch, [5, 9, 2, 7], None)]) as step:
        step.commit([range(4)])
    branch.release()
    return len(own.match(ids).token_ids)


#: Each takes integers and says what it made of them: name, a good list, and whether it holds -1.
USES: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "token ids": (grown, [5, 9, 2, 7]),
    "parents": (lambda parents: grown([5, 9, 2], parents, [0, 1]), [-1, 0, 0]),
    "accepted": (lambda path: grown([5, 9, 2], [-1, 0, 1], path), [0, 1]),
    "match": (matched, [5, 9, 2]),
    "keep of compact": (compacted, [1, 2, 6]),
    "keep of condense": (condensed, [1, 2, 6]),
    "rows": (lambda rows: ops.mass_columns(plan(), rows), [0, 2]),
    "corpus": (lambda ids: hb.spec.build_corpus([ids]).num_tokens, [4, 5, 6]),
}


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("use", USES)
def test_integers_are_read_however_they_lie(use: str, manner: str) -> None:
    call, ids = USES[use]
    if min(ids) < 0 and "uint" in manner:
        pytest.skip("holds a -1")
    assert call(MANNERS[manner](ids)) == call(ids)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("use", USES)
def test_what_is_no_list_of_integers_is_refused(use: str, kind: str) -> None:
    call, ids = USES[use]
    if use == "corpus" and kind == "list of bools":
        pytest.skip("a document is any sequence of Python's: True is 1 there")
    try:
        result = call(REFUSED[kind](ids))
    except hb.errors.InternalError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return
    # Where numpy reads these, the integers are the same.
    assert kind in ("objects", "a field of packed records")
    assert result == call(ids)


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(0, 100), min_size=1, max_size=9),
    width=st.sampled_from(WIDTHS),
    order=st.sampled_from("<>"),
    step=st.sampled_from([-3, -2, -1, 1, 2, 3]),
    offset=st.integers(0, 7),
)
def test_any_view_of_any_width_is_read_rightly(
    ids: list[int], width: str, order: str, step: int, offset: int
) -> None:
    dtype = np.dtype(width).newbyteorder(order)
    room = bytearray(offset + dtype.itemsize * len(ids) * abs(step))
    view = np.frombuffer(room, dtype, offset=offset)[::step][: len(ids)]
    view[...] = ids
    assert grown(view) == ids


def test_numbers_beyond_the_range_name_themselves() -> None:
    for ids, text in (
        ([2**31], "2147483648"),
        ([-1], "-1"),
        (np.array([2**40]), "1099511627776"),
        (np.array([2**63], np.uint64), "above 9223372036854775807"),
        ([2**70], str(2**70)),
    ):
        with pytest.raises(hb.errors.ArgumentError, match=f"token id is {text}, expected 0 to 2147483647"):
            grown(ids)
    with pytest.raises(TypeError, match="token id holds a float, expected integers"):
        grown([1, 2.0])
    with pytest.raises(TypeError, match="token id holds a bool, expected integers"):
        grown([1, True])


def test_errors_of_the_numbers_own_code_are_not_hidden() -> None:
    class Interrupted:
        def __index__(self) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grown([1, Interrupted()])


@pytest.mark.parametrize(
    "history", [[1.5], np.array([1.5]), torch.tensor([True]), np.array([2**63], np.uint64)], ids=str
)
def test_histories_are_integers(history: Any) -> None:
    warp = hb.Warp(repetition_penalty=1.1)
    with pytest.raises(hb.errors.ArgumentError, match="history"):
        ops.sample(torch.zeros(1, 8), warp, positions=torch.tensor([1]), history=[(history, [])])


@pytest.mark.parametrize("width", WIDTHS)
def test_histories_of_any_width(width: str) -> None:
    warp = hb.Warp(temperature=0, repetition_penalty=4.0)
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for history in (
        np.array([1], np.dtype(width).newbyteorder(">")),
        torch.tensor([1], dtype=getattr(torch, width)),
    ):
        assert ops.sample_ids(logits, warp, history=[(history, [])]) == [2]


def test_rows_to_put_are_checked() -> None:
    pool, entries, rows = chunks(), int32([3, 1, 0], [20, 2, 1]), random(2, DIM)
    ops.put_rows(pool, entries.astype(">i8"), rows, rows)
    assert torch.equal(pool[0].flatten(0, 1)[3, 1, 1], rows[0])
    for wrong in (entries * 1.0, entries > 0, np.ma.masked_array(entries, mask=True)):
        with pytest.raises(hb.errors.ArgumentError, match="entries"):
            ops.put_rows(pool, wrong, rows, rows)
    for wrong in (rows[:1], rows[:, :1], rows.to(torch.complex64), rows.long()):
        with pytest.raises(hb.errors.ShapeError, match="values"):
            ops.put_rows(pool, entries, rows, wrong)
