"""Measures a model on this machine: what a forward pass costs, and which kernels are the fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError, OutOfPages
from hornbeam.machine import kept
from hornbeam.machine.identity import digest, machine_facts
from hornbeam.machine.profile import Profile

if TYPE_CHECKING:
    from hornbeam.engine.host import Host

__all__ = [
    "CALIBRATION_ROWS",
    "KERNEL_ROWS",
    "measure_costs",
    "measure_kernels",
    "opened_profile",
    "pass_seconds",
]

#: Row counts at which the cost of a forward pass is measured.
CALIBRATION_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
#: Passes of each.
ROUNDS = 3
#: Row counts at which kernels are compared: one for each bucket of a profile up to the last.
KERNEL_ROWS = (*range(1, 17), 24, 32, 48, 64, 95, 128, 192, 256, 384, 512)
#: Passes of such a row count at most, where layers are few.
MOST_PASSES = 24


def opened_profile(given: Profile | str | os.PathLike[str] | None, host: Host) -> Profile | None:
    """The profile for a model: the given one, or the one that is kept on this machine; None for none.

    Raises:
        ArgumentError: as :class:`hornbeam.LM` says.
        OSError: the given file cannot be read.
    """
    if isinstance(given, Profile):
        return given
    if given == "off" or (given is None and not kept.is_wanted()):
        return None
    if given is None or given == "on":
        return kept.kept_profile(machine_facts(host.runner.shape.device), _model_facts(host))
    if not isinstance(given, (str, os.PathLike)):
        raise ArgumentError(f"profile is a {type(given).__name__}, expected a Profile, a file, 'on' or 'off'")
    if not os.path.isfile(given):
        raise ArgumentError(f"profile is {os.fspath(given)!r}, expected a file of a profile, 'on' or 'off'")
    return Profile.load(given)


def _model_facts(host: Host) -> dict[str, str]:
    """What distinguishes the shape of a model, whatever its weights are."""
    shape, operations = host.runner.shape, host.runner.switch.operations
    return {
        "model": type(host.model).__name__,
        "layers": str(shape.num_layers),
        "heads": f"{shape.num_heads} query heads, {shape.num_kv_heads} kv heads of {shape.head_dim}",
        "vocabulary": str(shape.vocab_size),
        "types": f"{shape.dtype} weights, {host.tree.dtype} pages",
        "kernels": "batch-invariant" if host.runner.batch_invariant else "chosen",
        "linear_layers": digest({operation.name: str(count) for operation, count in operations.items()}),
    }


def measure_costs(host: Host) -> None:
    """Adds the seconds of passes to the cost curve, for row counts that it does not know. As many rows as the
    pages have room for."""
    known = {rows for rows, _ in host.cost_curve.points()}
    counts = [rows for rows in CALIBRATION_ROWS if rows not in known]
    for _ in range(ROUNDS):
        for rows in counts:
            seconds = pass_seconds(host, rows)
            if seconds is None:
                break  # the budget does not allow them, or the machine does not: what fits was measured
            host.cost_curve.observe(rows, seconds)


def measure_kernels(host: Host, progress: Callable[[str, float], Any] | None = None) -> None:
    """Compares all kernels anew, at the row counts of :data:`KERNEL_ROWS`.

    Args:
        host: whose profile learns it.
        progress: called as ``progress(what, fraction)``.

    Raises:
        ArgumentError: the profile is one that does not learn, or there is none.
    """
    profile, switch = host.profile, host.runner.switch
    if host.runner.batch_invariant:
        raise ArgumentError(
            "kernels is True for batch_invariant=True, which has one kernel for all row counts"
        )
    if profile is None or not profile.learns:
        raise ArgumentError("kernels is True without a profile that learns, expected LM(profile='on')")
    profile.forget()
    host.take_up()
    total = sum(KERNEL_ROWS)
    for number, rows in enumerate(KERNEL_ROWS):
        if progress is not None:
            progress("comparing kernels", sum(KERNEL_ROWS[:number]) / total)
        with switch.freely():
            for _ in range(MOST_PASSES):
                if pass_seconds(host, rows) is None or not switch.is_short:
                    break
    host.take_up()


def pass_seconds(host: Host, rows: int) -> float | None:
    """What a pass of so many rows takes, without what was timed beside it; None if there is no room for them.
    Nothing of it stays."""
    if rows > min(host.tree.rows_to_spare(), host.max_positions):
        return None
    branch = host.tree.branch()
    try:
        try:
            step = host.tree.step([(branch, [0] * rows, None)], owner=host)
        except OutOfPages:
            return None
        with step:
            begin = time.perf_counter()
            host.forward(step)
            host.runner.wait()
            return time.perf_counter() - begin - host.runner.switch.last_beside
    finally:
        branch.drop()
