"""Ctrl-C at any place: the tree stays usable, later texts are right, nothing is left over.

Interrupts come in two ways. *At every place*: a profiling function raises where Python itself looks for
signals, that is after a call and at the beginning of a function, at one such place after the other through a
whole generation (``HORNBEAM_INTERRUPTS`` of them). *At random*: by a timer's signal.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.cache.tree import PrefixTree
from hornbeam.interrupts import modes_of_torch, restore_modes
from hornbeam.results import Generation
from tests import models

# Python drops an interrupt that comes while it closes a generator that nobody reads any more, and says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

#: Places of a generation that are tried, of all that there are.
PLACES = int(os.environ.get("HORNBEAM_INTERRUPTS", "120"))
PACKAGE = str(Path(hb.__file__).parent)
PROMPT = models.prompt(21, 4)[0].tolist()
OTHER = [*PROMPT[:18], 7, 9]
RECYCLING = {"draft": hb.spec.TokenRecycling(size=8, width=3, depth=3), "length": hb.spec.Fixed(8)}

#: Prompts and options of a call.
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (PROMPT, {"draft": None}),
    "draft": (PROMPT, RECYCLING),
    "default": (PROMPT, {}),
    "batch": ([PROMPT, OTHER, PROMPT[:9]], RECYCLING),
    "layers": (PROMPT, {"draft": hb.spec.LayerSkip(exit_layer=1), "length": hb.spec.Fixed(3)}),
    "keep": (PROMPT, {**RECYCLING, "keep": hb.recipes.knorm(budget="50%")}),
    "codes": (PROMPT * 4, {"draft": None, "keep": hb.recipes.int8()}),
}


@dataclass
class Case:
    """A model, a call, and what it answers when nobody interrupts it."""

    lm: hb.LM
    prompt: Any
    options: dict[str, Any]
    right: list[Generation]
    attention: str

    @classmethod
    def make(cls, name: str) -> Case:
        prompt, options = CALLS[name]
        model = models.llama()
        attention = model.config._attn_implementation
        plain = hb.LM(model).generate(prompt, max_new_tokens=8, **{**options, "draft": None})
        texts = plain if isinstance(plain, list) else [plain]
        # The first text ends by a token of its own, the others by their length.
        options = {**options, "max_new_tokens": 8, "eos_token_id": texts[0].token_ids[4]}
        case = cls(hb.LM(model), prompt, options, [], attention)
        case.right = [case.generate() for _ in range(3)][-1]  # measured, and with memories of earlier texts
        return case

    def generate(self) -> list[Generation]:
        outs = self.lm.generate(self.prompt, **self.options)
        return outs if isinstance(outs, list) else [outs]

    def check(self, outs: list[Generation] | None) -> None:
        """After an interrupt: what the call answered, and everything that it may have left."""
        for out, right in zip(outs or [], self.right, strict=outs is not None):
            count = len(out.token_ids)
            assert out.token_ids == right.token_ids[:count]
            whole = count == len(right.token_ids)
            assert out.finish_reason == (right.finish_reason if whole else "interrupted")
        for out, right in zip(self.generate(), self.right, strict=True):
            assert (out.token_ids, out.finish_reason) == (right.token_ids, right.finish_reason)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        tree = self.lm.tree
        tree.debug_check()
        assert not tree.has_open_step
        if tree.stats()["branches"]:
            gc.collect()  # what a cycle held
        assert tree.stats()["branches"] == 0
        assert self.lm.model.config._attn_implementation == self.attention
        assert not any("forward" in module.__dict__ for module in self.lm.model.modules())

    def finish(self) -> None:
        """Nothing is held by anybody."""
        self.lm.clear_cache()
        stats = self.lm.tree.stats()
        assert (stats["nodes"], stats["slabs"]) == (0, 0)
        assert self.lm.tree.chunks == []


class Place:
    """A profiling function that raises at the ``at``-th place within hornbeam."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("c_call", "c_exception") and frame.f_code.co_filename.startswith(PACKAGE):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    @property
    def was_reached(self) -> bool:
        return self.left <= 0


def interrupted(work: Callable[[], list[Generation]], place: Place) -> list[Generation] | None:
    """What ``work`` answers, if it answers."""
    try:
        sys.setprofile(place)
        return work()
    except KeyboardInterrupt:
        return None
    finally:
        sys.setprofile(None)


def test_modes_that_an_interrupt_left_on_are_put_back() -> None:
    """Inference modes that end in the order of their beginning, as objects in a traceback may."""
    before = modes_of_torch()
    outer, inner = torch.inference_mode(), torch.inference_mode()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    del inner
    assert modes_of_torch() != before
    restore_modes(before)
    assert modes_of_torch() == before


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_every_place(name: str) -> None:
    case = Case.make(name)
    whole = _count(case)
    assert whole > 200, "a generation has more places than that"
    for at in range(1, whole, max(1, whole // PLACES)):
        place = Place(at)
        outs = interrupted(case.generate, place)
        assert outs is None or place.was_reached or at > 0.8 * whole
        case.check(outs)
    case.finish()


@pytest.mark.parametrize("name", ["draft", "batch", "keep"])
def test_a_second_interrupt_during_the_recovery(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.make(name)
    recover = PrefixTree.recover
    second: Place | None = None

    def recovering(self: PrefixTree, owner: object = None) -> None:
        if second is not None and sys.getprofile() is None:
            sys.setprofile(second)
        recover(self, owner)

    monkeypatch.setattr(PrefixTree, "recover", recovering)
    places = random.Random(20)
    whole = _count(case)
    reached = 0
    for _ in range(120):
        second = Place(places.randrange(1, 60))
        outs = interrupted(case.generate, Place(places.randrange(1, whole)))
        reached += second.was_reached
        second = None
        case.check(outs)
    assert reached > 20
    case.finish()


def _count(case: Case) -> int:
    """The places of a generation."""
    place = Place(1 << 60)
    interrupted(case.generate, place)
    return (1 << 60) - place.left


@pytest.fixture
def alarm() -> Iterator[None]:
    """An alarm does what Ctrl-C does."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", CALLS)
def test_interrupts_at_random(name: str, alarm: None) -> None:
    case = Case.make(name)
    begin = time.perf_counter()
    case.generate()
    whole = time.perf_counter() - begin
    moments = random.Random(name)
    for _ in range(1000 // len(CALLS) + 1):
        outs = None
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 1.1 * whole))
                outs = case.generate()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # it fires once at most
        except KeyboardInterrupt:
            outs = None
        case.check(outs)
    case.finish()
