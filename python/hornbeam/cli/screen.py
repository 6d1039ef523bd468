"""What the commands print: text on stdout, everything about it on stderr.

On a terminal, tokens that came from an accepted draft are coloured and progress is drawn; in a
pipe or a file the output is plain text, so that ``hornbeam generate ... > file`` holds the text alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from hornbeam.bench.compare import Comparison, Timing

__all__ = ["Screen"]

DRAFT_STYLE = "green"

# A model may write anything; a terminal would obey its control codes.
_CONTROL_CODES = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Screen:
    """The two streams of a command. ``quiet`` leaves out everything but errors (for ``--json``)."""

    def __init__(self, *, quiet: bool = False) -> None:
        # The streams are named, since rich would otherwise follow whatever sys.stderr becomes.
        self.out = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.notes = Console(file=sys.stderr, highlight=False, quiet=quiet)

    def token_text(self, text: str, _tokens: list[int], source: str) -> None:
        """Prints a piece of the answer as soon as it is certain."""
        if self.out.is_terminal:
            shown = Text(text.translate(_CONTROL_CODES), style=DRAFT_STYLE if source == "draft" else "")
            self.out.print(shown, end="")
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def end_text(self) -> None:
        """Ends the answer's last line."""
        print(flush=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Shows ``what`` while the block runs; on a terminal only."""
        if self.notes.is_terminal and not self.notes.quiet:
            with self.notes.status(what):
                yield
        else:
            yield

    @contextmanager
    def preparing(self, what: str) -> Iterator[Any]:
        """Gives a function ``(stage, fraction)`` that shows how far a one-off preparation is."""
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self.notes,
            transient=True,
            disable=not self.notes.is_terminal,
        )
        task: Any = None

        def progress(stage: str, fraction: float) -> None:
            nonlocal task
            if task is None:
                self.notes.print(f"preparing {what}: once on this machine, about half a minute")
                bar.start()
                task = bar.add_task(stage, total=1.0)
            bar.update(task, description=stage, completed=fraction)

        try:
            yield progress
        finally:
            if task is not None:
                bar.stop()

    def summary(self, timing: Timing, stats: Any) -> None:
        """One line about a run: speed, passes, drafts, memory."""
        line = Text(f"{timing.num_tokens} tokens in {timing.seconds:.2f} s: ")
        line.append(f"{_rate(timing.decode_rate)} tokens/s decoding, {_rate(timing.total_rate)} in all; ")
        line.append(f"{stats.forward_passes} forward passes; ")
        if stats.drafted:
            line.append(f"{stats.accepted} tokens accepted", style=DRAFT_STYLE)
            line.append(f" of {stats.drafted} drafted; ")
        line.append(f"KV {stats.peak_kv_bytes / 1e6:.1f} MB at most")
        self.notes.print(line, soft_wrap=True)

    def comparison(self, comparison: Comparison) -> None:
        """Both speeds side by side, their ratio, and whether the text is the same."""
        ours, theirs = comparison.hornbeam, comparison.transformers
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("", "tokens", "seconds", "tokens/s decoding", "tokens/s in all"):
            table.add_column(name, justify="left" if not name else "right")
        for name, timing in (("hornbeam", ours), ("transformers", theirs)):
            table.add_row(
                name,
                str(timing.num_tokens),
                f"{timing.seconds:.2f}",
                _rate(timing.decode_rate),
                _rate(timing.total_rate),
            )
        table.add_row(
            "ratio", "", "", _times(comparison.decode_ratio), _times(comparison.total_ratio), style="bold"
        )
        self.notes.print(table)
        if comparison.identical:
            self.notes.print("the text is identical")
        else:
            self.notes.print(f"the text differs, first at token {comparison.first_difference}")


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"
