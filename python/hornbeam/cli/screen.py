"""What the commands print: text on stdout, everything about it on stderr.

On a terminal, tokens that came from an accepted draft are coloured and progress is drawn; in a
pipe or a file the output is plain text, so that ``hornbeam generate ... > file`` holds the text alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from hornbeam.bench.compare import Comparison, Timing

__all__ = ["REFRESHES", "Screen", "in_line"]

DRAFT_STYLE = "green"

# Of a line that shows that something is under way, a second: few, since it takes turns with the work.
REFRESHES = 4

# A model may write anything; a terminal would obey its control codes.
_CONTROL_CODES = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def in_line(text: str) -> str:
    """A text on one line, without codes that a terminal would obey."""
    return " ".join(text.translate(_CONTROL_CODES).split())


class Screen:
    """The two streams of a command. ``quiet`` leaves out every line but errors (for ``--json``); that
    something is under way is shown all the same, on a terminal, until it is done."""

    def __init__(self, *, quiet: bool = False) -> None:
        # The streams are named, since rich would otherwise follow whatever sys.stderr becomes.
        self.out = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.notes = Console(file=sys.stderr, highlight=False, quiet=quiet)
        self.progress = Console(file=sys.stderr, highlight=False)

    def note(self, text: str) -> None:
        """A line about what was done."""
        self.notes.print(text, soft_wrap=True)

    def plain(self, text: str) -> None:
        """A line about what was done, which may hold any text: nothing in it is markup."""
        self.notes.print(Text(in_line(text)), soft_wrap=True)

    def under_way(self, text: str) -> None:
        """A line about what was done, above what :meth:`waiting` shows, which may hold any text."""
        self.progress.print(Text(in_line(text)), soft_wrap=True)

    def token_text(self, text: str, _tokens: list[int], source: str) -> None:
        """Prints a piece of the answer as soon as it is certain."""
        if self.out.is_terminal:
            shown = Text(text.translate(_CONTROL_CODES), style=DRAFT_STYLE if source == "draft" else "")
            self.out.print(shown, end="")
        else:
            self.out.file.write(text)
            self.out.file.flush()

    def end_text(self) -> None:
        """Ends the answer's last line."""
        print(flush=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:
        """Shows ``what`` while the block runs; on a terminal only. Gives a function that shows something
        else, or with an empty text nothing more."""
        if not self.progress.is_terminal:
            yield lambda _: None
            return
        spinner = Spinner("dots", Text(what), style="green")
        # Standard output is left alone: it may go elsewhere than to this terminal.
        with Live(
            spinner,
            console=self.progress,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
        ) as live:

            def change(text: str) -> None:
                if text:
                    spinner.update(text=Text(text))
                else:
                    live.stop()

            yield change

    @contextmanager
    def answering(
        self, num_prompt_tokens: int, *, shows_text: bool
    ) -> Iterator[Callable[[str, list[int], str], None]]:
        """Gives a callback for the pieces of the answer. Until the first one the terminal says that the
        prompt is read, and then, where the text itself goes elsewhere, how many tokens there are."""
        num_tokens = 0
        with self.waiting(f"reading {num_prompt_tokens:,} tokens") as change:

            def show(text: str, tokens: list[int], source: str) -> None:
                nonlocal num_tokens
                num_tokens += len(tokens)
                is_seen = shows_text and self.out.is_terminal
                change("" if is_seen else f"{num_tokens:,} tokens")
                if shows_text:
                    self.token_text(text, tokens, source)

            yield show

    @contextmanager
    def preparing(self, what: str) -> Iterator[Any]:
        """Gives a function ``(stage, fraction)`` that shows how far a one-off preparation is."""
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self.progress,
            transient=True,
            disable=not self.progress.is_terminal,
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
        if stats.attend_keys:
            line.append(f", {stats.attend_share:.1%} of the keys read")
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
