"""Requests that begin where a text was read to its end: their first token needs no row of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hornbeam.engine.blame import Blamed
from hornbeam.engine.logprobs import token_entries
from hornbeam.engine.reading import Reading
from hornbeam.engine.verifying import process
from hornbeam.speculation.step_draft import StepDraft

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.request import Request

__all__ = ["begin"]


def begin(engine: Engine, requests: Sequence[Request], before: Sequence[Request | None]) -> None:
    """Gives requests their first tokens, from what was kept of texts that were read.

    A request stays as it is, and reads what it needs itself, where no text was read for it, the model has
    changed since, or a step was taken meanwhile. One whose processor or criterion fails, fails.

    Args:
        engine: the engine.
        requests: just submitted, none with a recipe for the cache.
        before: of each the reading of its whole prompt, which is held.
    """

    def work() -> None:
        for request, reading in zip(requests, before, strict=True):
            if isinstance(reading, Reading) and _fits(engine, request, reading):
                try:
                    _begin(engine, request, reading)
                except BaseException as error:
                    request.take_back()
                    request.close()
                    if not isinstance(error, Exception):
                        raise
                    request.fail(error.error if isinstance(error, Blamed) else error)

    engine.exclusively(work)


def _fits(engine: Engine, request: Request, reading: Reading) -> bool:
    return (
        not request.done
        and request.is_closed
        and not reading.is_closed
        and reading.logits is not None
        and reading.served_changes == engine.runner.changes
        and request.ambient.is_exact
        and request.ambient == reading.ambient
        and request.prompt == reading.prompt
    )


def _begin(engine: Engine, request: Request, reading: Reading) -> None:
    assert reading.logits is not None, "the logits of the text were not asked for"
    logits, options = reading.logits[None], request.options
    seen = logits if options.processor is None else process(request, StepDraft(), logits.clone())
    tokens = engine.group_of(request).verifier.sample([request], seen)
    if options.logprobs is not None:
        request.logprobs += token_entries(tokens, logits, options.logprobs)
    pieces = request.cut([(tokens[0], "plain")])
    request.start_after(reading.branch.fork())
    request.fresh = pieces, request.branch.length, 0
    request.emit()
