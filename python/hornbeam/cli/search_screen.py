"""A search on the screen: its tree as it grows, what it has spent, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from hornbeam.cli.screen import REFRESHES, Screen, in_line

__all__ = ["drawn", "ending", "ledger_line", "searching", "vote_lines"]

LIVE, FINISHED, PASSED = "●", "■", "·"
BEST_STYLE = "bold green"
BAR = 20
# Answers that are named with their votes.
NAMED = 5
ANSWER_LENGTH = 80
# Lines of the terminal that the tree leaves to what stands above and below it.
OTHER_LINES = 4

COSTS = {
    "tokens": ("token", "tokens"),
    "forwards": ("forward pass", "forward passes"),
    "verifier_calls": ("path valued", "paths valued"),
}


@contextmanager
def searching(screen: Screen) -> Iterator[Callable[[Any], None]]:
    """Gives what :meth:`hornbeam.LM.search` takes as ``watch``. On a terminal the tree is drawn anew after
    each round and goes when the block ends; elsewhere each round is a line."""
    console = screen.progress
    if not console.is_terminal:
        last = 0

        def say(progress: Any) -> None:
            nonlocal last
            if progress.round > last:
                last = progress.round
                screen.note(f"{standing(progress)}; {ledger_line(progress.ledger)}")

        yield say
        return
    spinner = Spinner("dots", Text("writing the first round"), style="green")
    with Live(
        spinner, console=console, refresh_per_second=REFRESHES, transient=True, redirect_stdout=False
    ) as live:

        def draw(progress: Any) -> None:
            lines = max(console.height - OTHER_LINES - len(limits(progress)), 3)
            spinner.update(text=Text(standing(progress, marks=True)))
            live.update(Group(spinner, *limits(progress), drawn(progress, lines)), refresh=True)

        yield draw


def standing(progress: Any, *, marks: bool = False) -> str:
    """A line about where a search stands; with the marks of the tree where that is drawn below."""
    paths = [path for path in progress.tree.paths.values() if path.node]
    values = [path.value for path in paths if path.value is not None]
    best = f", best value {max(values):.3f}" if values else ""
    live, finished = (f"{LIVE} ", f"{FINISHED} ") if marks else ("", "")
    counts = f"{live}{len(progress.live)} live, {finished}{len(progress.tree.finished)} finished"
    return f"round {progress.round}: {len(paths)} paths, {counts}{best}"


def limits(progress: Any) -> list[Text]:
    """What was spent of each limit, as bars; without limits what was spent, in one line."""
    found = []
    for kind in ("tokens", "forwards", "verifier_calls", "kv_bytes", "seconds"):
        limit, spent = getattr(progress.budget, kind), getattr(progress.ledger, kind)
        if limit is None:
            continue
        filled = BAR if not limit else min(int(BAR * spent / limit), BAR)
        said = f"{spent:,} of {_amount(kind, limit)}"
        if kind in ("kv_bytes", "seconds"):
            said = f"{_amount(kind, spent)} of {_amount(kind, limit)}"
        found.append(Text(f"{'█' * filled}{'░' * (BAR - filled)} {said}", no_wrap=True, overflow="ellipsis"))
    return found or [Text(ledger_line(progress.ledger), no_wrap=True, overflow="ellipsis")]


def drawn(progress: Any, lines: int) -> Text:
    """The tree of live and finished paths, those of greatest value where there is no room for all.

    A line is a path's end, or a node where paths part; the steps between them are passed over.

    Args:
        progress: a :class:`hornbeam.search.SearchProgress`.
        lines: at most.
    """
    paths, live = progress.tree.paths, set(progress.live) - {0}
    finished = progress.tree.finished
    ends = [paths[node] for node in live if node in paths] + finished
    ends.sort(key=_rank)
    best = min(finished or ends, key=_rank, default=None)
    if best is not None:
        ends.insert(0, ends.pop(ends.index(best)))
    count = len(ends)
    while (rows := _rows(paths[0], ends[:count])) and len(rows) + (count < len(ends)) > lines and count > 1:
        count -= 1
    text = Text(no_wrap=True, overflow="ellipsis")
    for guides, path in rows:
        mark = FINISHED if path.is_finished else LIVE if path.node in live else PASSED
        style = BEST_STYLE if path is best else "dim" if mark == PASSED else ""
        text.append(guides, style="dim")
        text.append(f"{mark} {path.value:.3f} step {path.depth} {in_line(path.step_text)}\n", style=style)
    if count < len(ends):
        text.append(f"and {len(ends) - count} more\n", style="dim")
    text.rstrip()
    return text


def _rank(path: Any) -> tuple[float, int]:
    return -path.value, path.node


def _rows(root: Any, ends: list[Any]) -> list[tuple[str, Any]]:
    """The lines of a tree, each with what is drawn before it: ends, and nodes where paths part."""
    children: dict[int, list[Any]] = {}
    is_end = {path.node for path in ends}
    seen = {root.node}
    for path in ends:
        while path.node not in seen:
            seen.add(path.node)
            children.setdefault(path.parent.node, []).append(path)
            path = path.parent
    for siblings in children.values():
        siblings.sort(key=_rank)
    found = []
    open_nodes = [(path, "", not place) for place, path in enumerate(reversed(children.get(root.node, [])))]
    while open_nodes:
        path, before, is_last = open_nodes.pop()
        while path.node not in is_end and len(children[path.node]) == 1:
            path = children[path.node][0]
        found.append((before + ("└" if is_last else "├"), path))
        below = reversed(children.get(path.node, []))
        inner = before + (" " if is_last else "│")
        open_nodes += [(child, inner, not place) for place, child in enumerate(below)]
    return found


def ledger_line(ledger: Any) -> str:
    """What was spent, in one line."""
    kinds = [_amount(kind, getattr(ledger, kind)) for kind in COSTS]
    return ", ".join([*kinds, f"KV {ledger.kv_bytes / 1e6:.1f} MB at most", f"{ledger.seconds:.2f} s"])


def _amount(kind: str, amount: float) -> str:
    if kind == "seconds":
        return f"{amount:.2f} s"
    if kind == "kv_bytes":
        return f"KV {amount / 1e6:.1f} MB"
    return f"{amount:,} {COSTS[kind][amount != 1]}"


def vote_lines(answers: list[Any]) -> list[str]:
    """The answers that most finished paths gave, with their votes."""
    if all(answer.votes == 1 for answer in answers):
        count = len(answers)
        return [f"{count} finished paths, each with an answer of its own"] if count > 1 else []
    lines = []
    for answer in answers[:NAMED]:
        votes = f"{answer.votes} vote{'s' * (answer.votes != 1)}"
        lines.append(f"{votes}, values {answer.value:.3f} in all: {_short(answer.text)}")
    if len(answers) > NAMED:
        lines.append(f"and {len(answers) - NAMED} further answers")
    return lines


def _short(text: str) -> str:
    line = in_line(text)
    return line if len(line) <= ANSWER_LENGTH else f"{line[: ANSWER_LENGTH - 1]}…"


def ending(stop: str) -> str:
    """Why a search ended, in words."""
    if stop == "over":
        return "the search ended by itself"
    if stop == "interrupted":
        return "the search was interrupted: this is the best so far"
    if stop == "error":
        return "the search ended with an error: this is the best so far"
    return f"the budget of {stop} was spent: this is the best so far"
