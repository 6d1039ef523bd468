"""Requests that are opened and stepped one by one, where a bench needs what lies between."""

from __future__ import annotations

from typing import Any

import hornbeam as hb
from hornbeam.engine.options import Options
from hornbeam.engine.request import Request


def opened(lm: hb.LM, prompt: list[int], recipe: Any = None, *, keeper: Any = None) -> Request:
    """A request whose prompt is read, and reduced where there is a recipe; ``keeper`` takes the place of the
    recipe's own. It is paused."""
    [request] = lm.engine.submit_all([prompt], Options.greedy(lm.max_positions, recipe), streams=False)
    if keeper is not None:
        request.keeper = keeper
    while not request.is_read:
        lm.engine.step()
    request.pause()
    return request


def step(request: Request, count: int) -> None:
    """So many steps of a paused request."""
    request.resume()
    for _ in range(count):
        request.engine.step()
    request.pause()
