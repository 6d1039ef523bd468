"""How a command ends: with a line about what went wrong, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from hornbeam.errors import HornbeamError

__all__ = ["reported"]


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """An error becomes one line on stderr and exit code 2; Ctrl-C exit code 130."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read the output has seen enough; stdout is replaced so that exit does not flush it.
        sys.stdout = None
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            raise
        said = " ".join(str(error).split()) or "no message"
        kind = "" if isinstance(error, (HornbeamError, OSError)) else f"{type(error).__name__}: "
        print(f"hornbeam: {kind}{said}", file=sys.stderr)
        raise typer.Exit(2) from None
