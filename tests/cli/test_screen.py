"""Something is on the screen while there is nothing else to see."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hornbeam.cli.screen import Screen

ROOT = Path(__file__).parent.parent.parent


def screen(*, text_is_seen: bool) -> Screen:
    """With a terminal in memory for what is under way, and one or a file for the text."""
    made = Screen()
    made.progress = Console(file=io.StringIO(), force_terminal=True, width=80)
    made.out = Console(file=io.StringIO(), force_terminal=text_is_seen, highlight=False, soft_wrap=True)
    return made


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_prompt_is_read_until_the_first_token() -> None:
    made = screen(text_is_seen=True)
    with made.answering(1234, shows_text=True) as show:
        assert "reading 1,234 tokens" in written(made.progress)
        show("first", [1], "plain")
        before = written(made.progress)
        show(" and [b] more", [2, 3], "plain")
        assert written(made.progress) == before, "the text alone is on the screen"
    assert written(made.out) == "first and [b] more"
    assert "3 tokens" not in written(made.progress)


@pytest.mark.parametrize("shows_text", [True, False])
def test_tokens_are_counted_where_the_text_is_not_seen(shows_text: bool) -> None:
    made = screen(text_is_seen=False)
    with made.answering(5, shows_text=shows_text) as show:
        show("first", [1], "plain")
        show(" and more", [2, 3], "plain")
    assert "3 tokens" in written(made.progress)
    assert written(made.out) == ("first and more" if shows_text else "")


def test_names_are_no_markup() -> None:
    made = screen(text_is_seen=True)
    with made.waiting("loading [red]model") as change:
        change("loading [/other]")
    assert "[red]model" in written(made.progress)


def test_nothing_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    made = Screen()
    with made.waiting("loading"), made.answering(5, shows_text=False) as show:
        show("text", [1], "plain")
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_run_shows_each_of_its_stages(folder: Path, options: list[str]) -> None:
    """On a terminal for what is under way; the text goes elsewhere, and is the text alone."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hornbeam", "generate", "hello", "--model", str(folder), "-n", "3"]
    with subprocess.Popen(
        [*command, "--device", "cpu", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT / "python"), "TERM": "xterm", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.stdout is not None
        text = process.stdout.read().decode(errors="replace")
    assert process.returncode == 0, shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    stages = ["starting", f"loading {folder}", "reading 22 tokens", "3 tokens"]
    places = [plain.find(stage) for stage in stages]
    assert -1 not in places, plain
    assert places == sorted(places)
    assert ("3 tokens in" in plain) == (not options)
    assert text.startswith("{") or not options
    assert "tokens in" not in text
