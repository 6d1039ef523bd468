"""The command line: ``hornbeam generate``, ``chat``, ``serve``, ``search``, ``keep``, ``attend``, and more.

This file imports nothing beyond the standard library, so that a missing extra is one clear line.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process: 0 when it worked, 2 after an error, 130 after Ctrl-C."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"hornbeam: the command line needs {', '.join(missing)}: pip install 'hornbeam[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from hornbeam.cli.commands import app

    app(args=None if arguments is None else list(arguments), prog_name="hornbeam")
