"""Which kernel runs, and what is timed beside it: the result is always that of the chosen one."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.machine import Profile
from hornbeam.machine.choice import PAIRS
from hornbeam.machine.operation import Operation
from hornbeam.machine.rows import bucket_of
from hornbeam.model import switch as switching
from hornbeam.model.linear import use_native_linear
from hornbeam.model.switch import KNOWN_SHARE, UNKNOWN_SHARE, Cells, Switch

NAMES = ("first", "second")
WORK = Operation("linear", (8, 4), "float32")


class Clock:
    """Time that passes only where work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Machine:
    """Two kernels whose seconds are known, and passes of some calls."""

    def __init__(self, clock: Clock, profile: Profile | None, **seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.calls: list[str] = []
        self.switch = Switch()
        self.switch.attach(profile)
        self.cells: Cells = self.switch.cells(WORK, NAMES, lambda _: "first")

    def kernel(self, name: str) -> Callable[[], str]:
        def run() -> str:
            self.calls.append(name)
            self.clock.now += self.seconds[name]
            return name

        return run

    def run(self, passes: int, calls: int = 10, rows: int = 1, other_seconds: float = 0.0) -> list[str]:
        """The results of all calls of some passes, which also do other things."""
        results = []
        for _ in range(passes):
            begin = self.switch.begin()
            self.clock.now += other_seconds
            for _ in range(calls):
                cell = self.cells.at(rows)
                cell.calls -= 1
                kernels = {name: self.kernel(name) for name in NAMES}
                is_due = cell.calls < 0
                results.append(self.cells.timed(cell, rows, kernels) if is_due else kernels[cell.kernel]())
            self.switch.end(begin)
        return results


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(switching.time, "perf_counter", clock.perf_counter)
    return clock


def test_the_result_is_that_of_the_chosen_kernel_while_the_other_is_timed(clock: Clock) -> None:
    profile = Profile()
    machine = Machine(clock, profile, first=2.0, second=1.0)
    assert set(machine.run(2000)) == {"first"}, "the kernels of a request stay until it ends"
    assert "second" in machine.calls
    assert profile.kernels.of(WORK, 0, "first") == "second"
    machine.switch.use(profile.kernels)
    assert set(machine.run(10)) == {"second"}


def test_without_a_profile_that_learns_nothing_is_timed(clock: Clock) -> None:
    for profile in (None, Profile(learns=False)):
        machine = Machine(clock, profile, first=2.0, second=1.0)
        assert machine.run(300) == ["first"] * 3000 == machine.calls
    assert profile is not None
    assert profile.measured() == []


@pytest.mark.parametrize("second", [0.1, 0.5, 3.0, 20.0])
@pytest.mark.parametrize("calls", [1, 10])
def test_what_is_timed_beside_stays_within_its_share(clock: Clock, second: float, calls: int) -> None:
    machine = Machine(clock, Profile(), first=1.0, second=second)
    worst, spent, count = 0.0, 0.0, 0
    for _ in range(3000):
        machine.run(1, calls)
        new = machine.calls[count:]
        count = len(machine.calls)
        spent += new.count("second") * second
        # One call of a kernel that takes longer than was feared may go beyond it, once.
        worst = max(worst, spent - (UNKNOWN_SHARE + KNOWN_SHARE) * clock.now - second)
    assert worst <= 0.0
    assert spent > 0.0 or second > 3.0


def test_a_slower_kernel_is_tried_again_but_rarely(clock: Clock) -> None:
    profile = Profile()
    machine = Machine(clock, profile, first=1.0, second=2.0)
    machine.run(3000)
    choice = profile.choice(WORK, 0)
    assert choice is not None
    assert choice.pairs("second") == PAIRS
    before = machine.calls.count("second")
    machine.run(3000)
    again = machine.calls.count("second") - before
    assert 0 < again * 2.0 <= 1.1 * KNOWN_SHARE * 30000


def test_what_turns_out_slower_later_is_given_up(clock: Clock) -> None:
    profile = Profile()
    machine = Machine(clock, profile, first=1.0, second=0.5)
    machine.run(2000)
    machine.switch.use(profile.kernels)
    assert set(machine.run(2000)) == {"second"}
    machine.seconds["second"] = 4.0
    for _ in range(40):
        machine.run(1000)
        machine.switch.use(profile.kernels)
    assert set(machine.run(10)) == {"first"}


def test_what_another_process_made_slow_comes_back(clock: Clock) -> None:
    profile = Profile()
    machine = Machine(clock, profile, first=100.0, second=1.0)
    machine.run(100)
    machine.switch.use(profile.kernels)
    machine.run(20000)
    assert set(machine.run(10)) == {"second"}
    machine.seconds["first"] = 0.5
    machine.run(2000)  # 20,000 calls: the eight thousandth is the first that tells
    machine.switch.use(profile.kernels)
    assert set(machine.run(10)) == {"first"}


def test_pairs_are_of_one_pass_and_of_equal_rows(clock: Clock) -> None:
    """Rows of a bucket differ, and so do clocks of passes that lie far apart."""
    profile = Profile()
    machine = Machine(clock, profile, first=1.0, second=2.0)
    clock.now = machine.switch.seconds = 1e9
    for number in range(200):
        machine.run(1, calls=1, rows=17 + number % 8)
    assert profile.measured() == []
    machine.run(3 * PAIRS, calls=1, rows=20)
    assert profile.choice(WORK, bucket_of(20)) is not None


def test_of_three_kernels_the_fastest_is_found(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.model.test_switch.NAMES", (*NAMES, "third"))
    profile = Profile()
    machine = Machine(clock, profile, first=1.0, second=0.8, third=0.5)
    for _ in range(20):
        assert len(set(machine.run(300))) == 1
        machine.switch.use(profile.kernels)
    assert set(machine.run(1)) == {"third"}
    choice = profile.choice(WORK, 0)
    assert choice is not None
    assert choice.pairs("first") == choice.pairs("second") == PAIRS


def test_free_passes_compare_everything(clock: Clock) -> None:
    profile = Profile()
    machine = Machine(clock, profile, first=2.0, second=1.0)
    machine.switch.operations[WORK] = 1
    with machine.switch.freely():
        machine.run(1, calls=1, rows=300)
        assert not machine.switch.is_short
    assert profile.kernels.of(WORK, bucket_of(300), "first") == "second"


def test_a_profile_with_a_foreign_kernel_is_refused_by_name() -> None:
    profile = Profile()
    profile.choose(WORK, 0, "amx")
    switch = Switch()
    switch.attach(profile)
    with pytest.raises(ArgumentError, match="'amx' for linear 8x4 float32, expected one of first, second"):
        switch.cells(WORK, NAMES, lambda _: "first")


@torch.no_grad()
def test_a_linear_layer_runs_the_kernel_of_the_profile() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Linear(40, 24)).requires_grad_(False)
    profile = Profile(learns=False)
    profile.choose(Operation("linear", (40, 24), "float32"), bucket_of(3), "torch")
    switch = Switch()
    switch.attach(profile)
    use_native_linear(net, switch=switch)
    for rows, expected in ((2, 2), (3, 1)):
        with mock.patch.object(_native, "linear", side_effect=_native.linear) as spy:
            net(torch.randn(rows, 24))
        assert spy.call_count == expected
