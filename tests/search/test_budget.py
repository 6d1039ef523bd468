"""The ledger: nothing is overdrawn, and accounts add up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam.errors import ArgumentError
from hornbeam.search import Budget, Ledger


def test_work_is_charged_before_it_is_done() -> None:
    ledger = Ledger(Budget(tokens=10, verifier_calls=1, kv_bytes="1KB"))
    assert ledger.reserve(tokens=6, verifier_calls=1)
    assert not ledger.reserve(tokens=5)
    assert not ledger.reserve(verifier_calls=1)
    ledger.settle({"tokens": 6, "verifier_calls": 1}, tokens=2)
    assert (ledger.tokens, ledger.left("tokens"), ledger.left("verifier_calls")) == (2, 8, 1)
    assert ledger.left("forwards") is None
    assert ledger.reserve(kv_bytes=900)
    ledger.settle({"kv_bytes": 900}, kv_bytes=700)
    ledger.release_bytes(500)
    assert (ledger.kv_bytes, ledger.kv_bytes_held, ledger.left("kv_bytes")) == (700, 200, 800)


def test_accounts_are_nested() -> None:
    ledger = Ledger(Budget(tokens=10))
    problem = ledger.open(Budget(tokens=6))
    branch = problem.open()
    assert branch.reserve(tokens=6)
    assert not branch.reserve(tokens=1)
    assert ledger.reserve(tokens=4)
    branch.settle({"tokens": 6}, tokens=6)
    assert (branch.tokens, problem.tokens, ledger.tokens) == (6, 6, 6)
    assert problem.exhausted == "tokens"
    branch.spend_seconds(1.5)
    assert ledger.seconds == pytest.approx(1.5)


@settings(max_examples=200, deadline=None)
@given(
    limits=st.tuples(*[st.none() | st.integers(0, 30)] * 3),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 9)), max_size=40),
)
def test_no_limit_is_passed(limits: tuple[int | None, ...], steps: list[tuple[int, int, int]]) -> None:
    ledger = Ledger(Budget(tokens=limits[0]))
    accounts = [ledger, ledger.open(Budget(tokens=limits[1]))]
    accounts.append(accounts[1].open(Budget(tokens=limits[2])))
    spent = [0, 0, 0]
    for which, reserved, used in steps:
        room = [limits[i] is None or spent[i] + reserved <= limits[i] for i in range(which + 1)]  # type: ignore[operator]
        assert accounts[which].reserve(tokens=reserved) == all(room)
        if all(room):
            used = min(used, reserved)
            accounts[which].settle({"tokens": reserved}, tokens=used)
            for i in range(which + 1):
                spent[i] += used
        assert [account.tokens for account in accounts] == spent


def test_what_is_no_budget_is_refused() -> None:
    for arguments, message in [
        ({"tokens": -1}, "tokens is -1, expected 0 or more"),
        ({"tokens": 1.5}, "tokens is 1.5, expected a whole number"),
        ({"kv_bytes": "many"}, "kv_bytes is 'many', expected bytes"),
        ({"seconds": -1}, "seconds is -1, expected a number, 0 or more"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            Budget(**arguments)  # type: ignore[arg-type]
    ledger = Ledger()
    assert ledger.reserve(tokens=3)
    with pytest.raises(ArgumentError, match="used is 4, expected at most the 3 reserved"):
        ledger.settle({"tokens": 3}, tokens=4)
    with pytest.raises(ArgumentError, match="bytes is 1, expected at most the 0 held"):
        ledger.release_bytes(1)
