"""An interrupt of one thread's call, at every place: the requests of the others end with their own texts."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import StateError
from tests import models
from tests.cache.test_interrupts import Place, interrupted

#: Places of a call that are tried, of all that there are.
PLACES = int(os.environ.get("HORNBEAM_INTERRUPTS", "120"))
PROMPT = models.prompt(21, 4)[0].tolist()
OTHER = models.prompt(34, 5)[0].tolist()
RECYCLING = {"draft": hb.spec.TokenRecycling(size=8, width=3, depth=3), "length": hb.spec.Fixed(8)}
OTHERS: dict[str, dict[str, Any]] = {
    "sampled": {"temperature": 0.9, **RECYCLING},
    "plain": {"draft": None, "stop": "never said"},
    "keep": {"keep": hb.recipes.knorm(budget="50%"), "draft": None},
}

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_go_on(name: str) -> None:
    model = models.llama(layers=1)
    lm = hb.LM(model, models.byte_tokenizer())
    engine, options = lm.engine, {"max_new_tokens": 10, **OTHERS[name]}
    right = hb.LM(model, models.byte_tokenizer()).generate(OTHER, **options)
    lm.generate(PROMPT, max_new_tokens=4, **RECYCLING)

    def call() -> list[Any]:
        return [lm.generate(PROMPT, max_new_tokens=4, **RECYCLING)]

    def other() -> Any:
        request = engine.submit(OTHER, **options)
        for _ in range(2):
            engine.step()
        return request

    request = other()
    place = Place(1 << 60)
    interrupted(call, place)
    whole = (1 << 60) - place.left
    request.cancel()
    failed = 0  # whose cache was being reduced
    for at in range(1, whole, max(1, whole // PLACES)):
        request = other()
        interrupted(call, Place(at))
        try:
            out = request.result()
        except StateError:
            failed += 1
        else:
            assert (out.token_ids, out.text) == (right.token_ids, right.text)
            shown = "".join(chunk.text for chunk in request.chunks())
            assert shown == right.text
            request.release()
        del request
        assert engine.requests == []
        if engine.tree.stats()["branches"]:
            gc.collect()
        assert engine.tree.stats()["branches"] == 0
        assert not engine.tree.has_open_step
        engine.tree.debug_check()
    assert failed <= (PLACES // 4 if name == "keep" else 0)
