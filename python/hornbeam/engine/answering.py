"""One call: its prompts from submission to their answers, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hornbeam.engine.request import Call, Request
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.results import Generation

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.lockstep import Lockstep
    from hornbeam.engine.options import Options

__all__ = ["answer"]


def answer(
    engine: Engine,
    read: Callable[[], list[list[int]]],
    options: Options,
    *,
    show: Callable[[Request], None] | None = None,
    before: list[list[int]] | None = None,
    lockstep: Lockstep | None = None,
) -> list[Generation]:
    """Continues prompts; Ctrl-C ends the call with what there is.

    Args:
        engine: takes the steps, with whatever else is under way on it.
        read: gives the prompts as token ids; called when the model is as it will be.
        options: from :meth:`hornbeam.Engine.options_of`.
        show: called with each request after every step, to take up what is new in it.
        before: as :meth:`hornbeam.Engine.submit_all` has it.
        lockstep: likewise.

    Raises:
        BaseException: whatever the first request that failed has failed with.
    """
    call, requests, modes = Call(), list[Request](), modes_of_torch()

    def after() -> None:
        if show is not None:
            for request in requests:
                show(request)

    try:
        try:
            requests = engine.submit_all(
                read,
                options,
                streams=show is not None,
                releases=True,
                owner=call,
                before=before,
                lockstep=lockstep,
            )
            engine.run(requests, after)
        except KeyboardInterrupt as interrupt:
            end_frames(interrupt)
            if not requests:
                raise
            engine.interrupt(requests)
        for request in requests:
            if request.error is not None:
                raise request.error
        return [request.generation() for request in requests]
    finally:
        engine.close_all(requests)
        restore_modes(modes)
