"""An engine under random use: every request ends with the text that it has alone, and nothing is left.

``HORNBEAM_ENGINE_RUNS`` runs (1,000 by default). What happens in a run comes from its number.
"""

from __future__ import annotations

import functools
import gc
import os
import random
from dataclasses import dataclass
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.engine.request import Request
from tests import models

RUNS = int(os.environ.get("HORNBEAM_ENGINE_RUNS", "1000"))
PARTS = 4
PROMPTS = [models.prompt(length, seed)[0].tolist() for seed, length in enumerate((3, 17, 18, 40, 75))]
PROMPTS.append([*PROMPTS[3][:30], 1, 2, 3])
DRAFTS: list[dict[str, Any]] = [
    {"draft": None},
    {"draft": hb.spec.TokenRecycling(size=6, width=3, depth=3), "length": hb.spec.Fixed(6)},
    {"draft": hb.spec.Suffix(), "length": hb.spec.Fixed(4)},
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8},
    {"temperature": 1.1, "top_k": 30, "seed": 9},
    {"warp": hb.Warp(temperature=0.9, repetition_penalty=1.2), "seed": 1},
    {"keep": hb.recipes.knorm(budget="60%"), "temperature": 0.7},
]


class Boom(Exception):
    pass


@dataclass(frozen=True)
class Origin:
    """How a request came about: what was submitted, and at which output which of how many children it was."""

    prompt: int
    setting: int
    length: int
    forks: tuple[tuple[int, int, int], ...] = ()


@functools.cache
def model() -> Any:
    return models.llama(layers=1)


@functools.cache
def quiet() -> hb.Engine:
    """An engine that serves one request after the other."""
    return hb.Engine(model())


@functools.cache
def alone(origin: Origin) -> list[int]:
    """The text of a request that nobody shares the engine with."""
    engine = quiet()
    request = engine.submit(
        PROMPTS[origin.prompt], draft=None, max_new_tokens=origin.length, **SETTINGS[origin.setting]
    )
    for at, count, index in origin.forks:
        while len(request.output) < at:
            engine.step()
        children = request.fork(count)
        for child in children:
            if child is not children[index]:
                child.cancel()
        request = children[index]
    return request.result().token_ids


def fail(*_: Any) -> Any:
    raise Boom


class Run:
    """One run: requests that are under way, with their origins."""

    def __init__(self, number: int, engine: hb.Engine) -> None:
        self.random = random.Random(number)
        self.engine = engine
        self.live: list[tuple[Request, Origin]] = []

    def submit(self) -> None:
        origin = Origin(
            self.random.randrange(len(PROMPTS)),
            self.random.randrange(len(SETTINGS)),
            self.random.choice((1, 5, 9)),
        )
        options = {**SETTINGS[origin.setting], **self.random.choice(DRAFTS)}
        request = self.engine.submit(PROMPTS[origin.prompt], max_new_tokens=origin.length, **options)
        self.live.append((request, origin))

    def submit_a_failing_one(self) -> None:
        what = self.random.choice(("logits_processor", "stopping_criterion"))
        request = self.engine.submit(PROMPTS[0], max_new_tokens=4, draft=None, **{what: fail})
        self.engine.step()
        if not request.done:  # nobody of its settings was taken yet
            request.cancel()
        else:
            assert isinstance(request.error, Boom)

    def fork(self) -> None:
        if not self.live or len(self.live) > 8:
            return
        place = self.random.randrange(len(self.live))
        request, origin = self.live[place]
        if request.done or request.is_paused:
            return
        at, count = len(request.output), self.random.choice((1, 2, 3))
        children = request.fork(count)
        self.live[place : place + 1] = [
            (child, Origin(origin.prompt, origin.setting, origin.length, (*origin.forks, (at, count, index))))
            for index, child in enumerate(children)
        ]

    def cancel(self) -> None:
        if self.live:
            request, origin = self.live.pop(self.random.randrange(len(self.live)))
            request.cancel()
            out = request.result()
            assert out.token_ids == alone(origin)[: len(out.token_ids)]

    def pause(self) -> None:
        if self.live:
            request, _ = self.random.choice(self.live)
            if not request.done:
                request.resume() if request.is_paused else request.pause()

    def step(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            self.engine.step()

    def run(self) -> None:
        self.submit()
        acts = [self.submit, self.fork, self.cancel, self.pause, self.submit_a_failing_one]
        for _ in range(self.random.randrange(3, 9)):
            self.random.choices(acts, (4, 3, 1, 2, 1))[0]()
            self.step()
        for request, origin in self.live:
            if request.is_paused and not request.done:
                request.resume()
            assert request.result().token_ids == alone(origin), origin
            request.release()


@pytest.mark.parametrize("part", range(PARTS))
def test_every_text_is_that_of_the_request_alone(part: int) -> None:
    engine = hb.Engine(model(), page_tokens=4)
    for number in range(part, RUNS, PARTS):
        Run(number, engine).run()
        assert engine.requests == []
        if number % 40 < PARTS:
            gc.collect()
            engine.tree.debug_check()
            assert engine.tree.stats()["branches"] == 0
    gc.collect()
    engine.clear_cache()
    assert engine.tree.num_bytes == 0
