"""One step: draft, forward, verify, commit, for rows of prompts and of decoding together.

A step is a transaction on the prefix tree: an exception anywhere (the model, a processor, Ctrl-C) rolls it
back, so that every request stands where it stood. What belongs to one request or to one draft source alone
fails that one, and the others go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hornbeam.engine.blame import Blamed
from hornbeam.engine.ragged_step import RaggedStep
from hornbeam.engine.request import Request
from hornbeam.engine.scheduling import Schedule
from hornbeam.errors import OutOfPages
from hornbeam.results import Piece

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["take_step"]


def take_step(engine: Engine, plan: Schedule) -> list[tuple[Request, list[Piece]]]:
    """Takes one step; returns its requests, with what each emitted.

    Where memory is short, drafts are dropped first; then the youngest request waits until another has ended;
    a request that does not fit alone fails.
    """
    ended = [(request, list[Piece]()) for request in plan.ended]
    while plan.decoding or plan.chunks:
        taken = [*plan.decoding, *(chunk.request for chunk in plan.chunks)]
        try:
            return ended + RaggedStep(engine, plan).run()
        except Blamed as blamed:
            for request in blamed.requests:
                request.fail(blamed.error)
        except OutOfPages as error:
            youngest = max(taken, key=lambda request: engine.age(request))
            if len(engine.requests) > 1 and youngest.can_wait and len(taken) > 1:
                youngest.put_off(engine)
            else:
                youngest.fail(error)
        except Exception as error:
            for request in taken:
                request.fail(error)
        # The others go on from where they were; draft sources may have seen a part of the step.
        restored = [(request, engine.restore(request)) for request in taken]
        engine.renew_groups()
        touched = [(request, pieces) for request, pieces in restored if pieces or request.error is not None]
        if touched:
            return ended + touched
        plan = Schedule(
            [request for request in plan.decoding if not request.is_closed],
            [chunk for chunk in plan.chunks if not chunk.request.is_closed],
            plan.waiting,
        )
    return ended
