"""What every bench shares: timing in alternation, the ratio with its interval, the machine, JSON.

A machine's speed drifts, often by more than the effect that is measured. So the two sides are
called in turn (A B A B ...), each pair of neighbours gives one ratio, and the median of the ratios
is reported with an interval from order statistics, which assumes nothing about their distribution.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Where the package lies: the folder ``python`` of a checkout, or that of installed packages.
PACKAGES = Path(__file__).parent.parent.parent
#: The checkout that the package lies in; None where it is installed.
CHECKOUT = PACKAGES.parent if (PACKAGES.parent / "benches" / "run.py").is_file() else None
#: Where results are written unless told otherwise.
RESULTS = Path("hornbeam-bench") if CHECKOUT is None else CHECKOUT / "benches" / "results"

ALTERNATIONS = 7


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is: the median over pairs, and an interval that holds the true
    median with at least 95 % confidence (given enough pairs: from six on). Seconds are medians."""

    median: float
    low: float
    high: float
    ours_seconds: float
    theirs_seconds: float
    alternations: int


def alternate(
    calls: Mapping[str, Callable[[], float | None]], alternations: int = ALTERNATIONS, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, made in turn ``alternations`` times after ``warm_up`` untimed rounds.

    A call that returns a float is believed (it timed the part that matters); else its wall time counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(warm_up + alternations):
        for name, call in calls.items():
            begin = time.perf_counter()
            told = call()
            spent = time.perf_counter() - begin
            if round_ >= warm_up:
                seconds[name].append(spent if told is None else told)
    return seconds


def run_rows(rows: Mapping[str, Callable[[], Any]], only: Iterable[str] | None) -> dict[str, Any]:
    """The results of all rows, or of those that ``only`` names; each is printed when it is there."""
    chosen = list(rows) if only is None else list(only)
    if unknown := sorted(set(chosen) - set(rows)):
        raise SystemExit(f"rows are {', '.join(unknown)}, expected some of: {', '.join(rows)}")
    results = {}
    for name in chosen:
        results[name] = rows[name]()
        print(name, plain(results[name]), flush=True)
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two series of seconds that were taken in alternation."""
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    low, high = interval(ratios)
    return Ratio(
        median=statistics.median(ratios),
        low=low,
        high=high,
        ours_seconds=statistics.median(ours),
        theirs_seconds=statistics.median(theirs),
        alternations=len(ratios),
    )


def interval(ordered: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The narrowest pair of order statistics, equally far from both ends, that holds the median with
    at least ``confidence``: the number of values below the median is binomial with p = 1/2. With too
    few values it is their whole range."""
    count = len(ordered)
    outside, inner = 0.0, 0
    for i in range(count // 2):
        outside += 2 * math.comb(count, i) / 2**count
        if 1 - outside < confidence:
            break
        inner = i
    return ordered[inner], ordered[count - 1 - inner]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def machine() -> dict[str, Any]:
    """The machine, the versions and the build that a result belongs to."""
    from hornbeam.build import build_info, environment

    facts = {**build_info(), **environment()}
    # Folders of this machine say nothing about speed.
    facts.pop("prepared_models")
    facts.pop("profiles")
    return {"revision": revision() or facts["version"], **facts}


def revision() -> str | None:
    """Of the checkout that the package lies in; None where it is installed, or git does not know."""
    if CHECKOUT is None:
        return None
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def write(
    name: str,
    results: Any,
    command: str,
    file: Path | None = None,
    rows: Sequence[str] | None = None,
    folder: Path | None = None,
) -> Path:
    """Writes ``results`` with the machine and the command; by default to <name>-<processor>.json in
    ``folder``, which is :data:`RESULTS` by default. With ``rows`` only these rows of a file that is there are
    replaced."""
    facts = machine()
    processor = re.sub(r"[^a-z0-9]+", "-", str(facts["processor"]).lower()).strip("-")
    file = file or (folder or RESULTS) / f"{name}-{processor}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {"bench": name, "command": command, "machine": facts, "results": plain(results)}
    if rows and file.exists():
        report = merged(json.loads(file.read_text(encoding="utf-8")), report, rows)
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return file


def merged(old: dict[str, Any], new: dict[str, Any], rows: Sequence[str]) -> dict[str, Any]:
    """The older report with some rows of a newer one; ``measured`` says of each row what measured it."""
    if old["bench"] != new["bench"]:
        raise SystemExit(f"the file holds results of {old['bench']}, expected those of {new['bench']}")

    def source(report: dict[str, Any]) -> dict[str, Any]:
        return {"command": report["command"], "revision": report["machine"]["revision"]}

    measured = old.get("measured", dict.fromkeys(old["results"], source(old)))
    measured = {**measured, **dict.fromkeys(rows, source(new))}
    return {
        **old,
        "machine": new["machine"],
        "measured": measured,
        "results": {**old["results"], **new["results"]},
    }


def plain(value: Any) -> Any:
    """``value`` with every :class:`Ratio` as a dictionary, for JSON."""
    if isinstance(value, Ratio):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
