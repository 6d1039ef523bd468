"""``hornbeam info --measure``: which kernels are the fastest on this machine, and what a pass takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hornbeam.cli import opening
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam.machine.profile import Measured

__all__ = ["measured"]


def measured(name: str, dtype: str, screen: Screen, *, as_json: bool) -> None:
    """Measures a model, keeps what came out for later runs, and shows it.

    Raises:
        ArgumentError: no such model, or profiles are switched off by the environment.
    """
    from hornbeam.model import loading

    loading.check(name)
    path = opening.prepared(name, screen)
    lm = opening.open_lm(name, path, None, dtype, "cpu", screen)
    profile = lm.engine.profile
    if profile is None:
        raise ArgumentError("--measure is given with HORNBEAM_PROFILE=off, expected 'on'")
    with screen.preparing("comparing kernels") as progress:
        lm.calibrate(kernels=True, progress=progress)
    profile.keep(now=True)
    found = profile.measured()
    if as_json:
        print(json.dumps(_report(profile, found)))
        return
    for operation, own in groupby(found, key=lambda one: one.operation):
        print(operation.name)
        for line in _lines(list(own)):
            print(f"  {line}")
    print("a pass")
    for rows, seconds in profile.cost:
        print(f"  {_rows(rows, rows):>14}  {1e3 * seconds:.1f} ms")
    screen.note(f"kept in {profile.path}")


def _lines(found: Sequence[Measured]) -> list[str]:
    """One a run of row counts with the same kernel."""
    lines, last = [], 0
    for kernel, run in groupby(found, key=lambda one: one.kernel):
        own = list(run)
        end = own[-1].rows
        fast = sorted(one.times_as_fast for one in own if one.times_as_fast is not None)
        beside = f", {fast[0]:.2f} to {fast[-1]:.2f} times as fast as the other" if fast else ""
        lines.append(f"{_rows(last + 1, end):>14}  {kernel}{beside}")
        last = end or last
    return lines


def _rows(first: int, last: int | None) -> str:
    if last is None:
        return f"{first} rows and more"
    if first == last:
        return "1 row" if first == 1 else f"{first} rows"
    return f"{first} to {last} rows"


def _report(profile: Any, found: Sequence[Measured]) -> dict[str, Any]:
    kernels = [
        {
            "operation": one.operation.name,
            "rows": one.rows,
            "kernel": one.kernel,
            "times_as_fast": one.times_as_fast,
            "pairs": one.pairs,
        }
        for one in found
    ]
    return {"profile": str(profile.path), "kernels": kernels, "cost": profile.cost}
