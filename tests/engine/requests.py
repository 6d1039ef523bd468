"""What tests of requests share: two prompts, settings, and the text that a request gets alone."""

from __future__ import annotations

from typing import Any

import hornbeam as hb
from hornbeam.engine.request import Request
from tests import models

PROMPT = models.prompt(21, 4)[0].tolist()
OTHER = models.prompt(34, 5)[0].tolist()
SAMPLING = {"temperature": 0.9, "top_k": 40}
RECYCLING = {"draft": hb.spec.TokenRecycling(size=8, width=3, depth=3), "length": hb.spec.Fixed(8)}


def text(model: Any, prompt: list[int] = PROMPT, **options: Any) -> list[int]:
    return hb.LM(model).generate(prompt, **{"draft": None, "max_new_tokens": 16, **options}).token_ids


def finished(engine: hb.Engine, requests: list[Request]) -> None:
    """Nothing is left of them."""
    for request in requests:
        if request.done:
            request.release()
    assert engine.requests == []
    engine.tree.debug_check()
    assert engine.tree.stats()["branches"] == 0


class Boom(Exception):
    pass
