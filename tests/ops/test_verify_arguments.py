"""hornbeam.ops.verify: faults in logits, bad arguments, and the types and widths that it takes."""

from itertools import pairwise
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, LogitsError, ShapeError
from tests.ops.verifying import (
    EXACT,
    RATIO,
    batch_of,
    tensors,
)


@pytest.mark.parametrize("rule", EXACT)
def test_rows_off_the_walk_are_not_read(rule: str) -> None:
    """NaN behind a refused token is nobody's business; on the walk it is named."""
    rows = torch.zeros(4, 3)
    rows[0] = torch.tensor([0.0, -float("inf"), -float("inf")])
    rows[2:] = float("nan")
    tree = [(1, -1), (0, 0), (0, 1)]
    laws = torch.zeros(4, 3)
    got = hb.ops.verify(*tensors([tree]), rows, laws, rule=rule, positions=torch.tensor([0]))
    assert (got.num_accepted.item(), got.next_token.item()) == (0, 0)
    tree = [(0, -1), (0, 0), (0, 1)]
    rows[1] = rows[0]
    laws[:, 1:] = -float("inf")
    with pytest.raises(LogitsError, match="logits of sequence 1, row 2 contain NaN"):
        hb.ops.verify(
            *tensors([tree, tree]),
            torch.cat([rows[:1].expand(4, 3), rows]),
            torch.cat([laws, laws]),
            rule=rule,
            positions=torch.tensor([0, 0]),
        )


@pytest.mark.parametrize(
    ("value", "name"), [(float("nan"), "NaN"), (float("inf"), r"\+inf"), (None, "-inf only")]
)
@pytest.mark.parametrize("size", [1, 15, 16, 33, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_faults(value: float | None, name: str, size: int, dtype: torch.dtype) -> None:
    for place in {0, size // 2, size - 1}:
        row = torch.full((1, size), -float("inf") if value is None else 1.0, dtype=dtype)
        if value is not None:
            row[0, place] = value
        for warp in (hb.Warp(), hb.Warp(temperature=0)):
            with pytest.raises(LogitsError, match=f"logits of sequence 0, row 0 contain {name}, expected"):
                hb.ops.sample(row, warp, positions=torch.tensor([0]))


def test_empty_batch() -> None:
    got = hb.ops.verify(*tensors([]), torch.zeros(0, 5))
    assert [tuple(x.shape) for x in got] == [(0, 0), (0,), (0,)]


def call(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "draft_tokens": torch.tensor([1, 2]),
        "draft_parents": torch.tensor([-1, 0], dtype=torch.int32),
        "offsets": torch.tensor([0, 2], dtype=torch.int32),
        "target_logits": torch.zeros(3, 8),
        "positions": torch.tensor([0]),
        **changes,
    }
    return hb.ops.verify(**arguments)


I32 = torch.int32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rule": "exact"}, ArgumentError, 'rule is "exact", expected one of block, chain'),
        ({"positions": None}, ArgumentError, "positions is None, expected one a sequence"),
        ({"seed": -1}, ArgumentError, "seed is -1, expected 0 to"),
        ({"seed": 2**64}, ArgumentError, "seed is 18446744073709551616"),
        ({"positions": torch.tensor([-1])}, ArgumentError, "positions is -1, expected 0 to 4294967295"),
        ({"sequences": torch.tensor([2**32])}, ArgumentError, "sequences is 4294967296"),
        ({"sequences": torch.tensor([0, 1])}, ShapeError, "sequences is 2, expected 1"),
        ({"draft_tokens": torch.tensor([1, -2])}, ArgumentError, "a draft token is -2"),
        (
            {"draft_tokens": torch.tensor([1, 2], dtype=I32)},
            ShapeError,
            "draft_tokens is int32, expected int64",
        ),
        ({"draft_tokens": torch.tensor([1])}, ShapeError, "draft_tokens is 1, expected 2"),
        (
            {"draft_parents": torch.tensor([0, -1], dtype=I32)},
            ArgumentError,
            "parent is 0, expected -1 to -1",
        ),
        ({"draft_parents": torch.tensor([-1, -2], dtype=I32)}, ArgumentError, "parent is -2"),
        (
            {"draft_parents": torch.tensor([-1, -1], dtype=I32), "rule": "chain"},
            ArgumentError,
            "verifies chains",
        ),
        (
            {"offsets": torch.tensor([0, 1], dtype=I32)},
            ShapeError,
            r"offsets is \[0, 1\], expected ascending to 2",
        ),
        ({"offsets": torch.tensor([1, 2], dtype=I32)}, ShapeError, r"offsets is \[1, 2\], expected"),
        ({"target_logits": torch.zeros(2, 8)}, ShapeError, "target_logits rows is 2, expected 3"),
        ({"target_logits": torch.zeros(3, 8, dtype=torch.float64)}, TypeError, "target_logits has dtype"),
        ({"target_logits": torch.zeros(8, 3).T}, ShapeError, "target_logits is strided"),
        ({"draft_logits": torch.zeros(2, 8)}, ShapeError, "draft_logits rows is 2, expected 3"),
        (
            {"warp": hb.Warp(presence_penalty=1.0)},
            ArgumentError,
            "history is None, expected prompt and output",
        ),
        ({"warp": [hb.Warp()] * 3}, ShapeError, "warp is 3, expected 1"),
        (
            {"warp": hb.Warp(presence_penalty=1.0), "history": [([9], [])]},
            ArgumentError,
            "history is 9, expected 0 to 7",
        ),
        ({"history": []}, ShapeError, "history is 0, expected 1"),
    ],
)
def test_errors(changes: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(**changes)


def test_wide_and_narrow_vocabularies() -> None:
    """A draft token that only one side knows is refused, and neither side reads past its row."""
    for rule in RATIO:
        got = call(
            draft_tokens=torch.tensor([11, 2]),
            draft_logits=torch.zeros(3, 12),
            rule=rule,
        )
        assert got.num_accepted.item() == 0
        assert got.next_token.item() < 8
        narrow = call(draft_logits=torch.zeros(3, 3), rule=rule)
        assert narrow.next_token.item() < 8


def test_bf16_and_f16_are_widened_exactly() -> None:
    trees, target, draft = batch_of(7)
    for dtype in (torch.bfloat16, torch.float16):
        runs = [
            hb.ops.verify(*tensors(trees), t, d, positions=torch.arange(12))
            for t, d in [
                (target.to(dtype), draft.to(dtype)),
                (target.to(dtype).float(), draft.to(dtype).float()),
            ]
        ]
        assert all(torch.equal(a, b) for a, b in pairwise(runs) for a, b in zip(a, b, strict=True))
