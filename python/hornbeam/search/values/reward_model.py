"""A second language model as process reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hornbeam.errors import ArgumentError
from hornbeam.prompt import text_ids, token_ids
from hornbeam.search.path import Path
from hornbeam.search.values.base import OpenValue, SearchFacts, Value

__all__ = ["RewardModel"]


class HasEngine(Protocol):
    """A model that reads texts: :class:`hornbeam.LM` is one."""

    engine: Any


@dataclass(frozen=True)
class RewardModel(Value):
    """A language model that says after each step whether it is good, by the token that it would write next:
    ``p(good) / (p(good) + p(bad))`` (Wang et al. 2024, "Math-Shepherd", arXiv 2312.08935, scores steps so).
    The value of a path is that of its last step.

    It reads on its own prefix tree: the prompt once, and of a path what its last step added, those of all
    paths of a round in one ragged batch. What a search lets go of is let go of here. Its tokens are its
    own: prompt and steps are handed over as text. A step is made into tokens by itself, so that the end of a
    step is the end of a token; where a tokenizer joins what stands on both sides, that is another text than
    the whole trajectory's.

    Args:
        lm: an :class:`hornbeam.LM` with a tokenizer. It may be the one that searches.
        good: the text of one token of it, or a token id.
        bad: likewise.
        template: from the prompt, text or chat messages, to what is read before the first step, text or chat
            messages; the prompt itself by default. Messages go through the chat template of ``lm``.
        suffix: text that stands between a step and the answer, such as a question; it is read for each path
            and taken back.

    Raises:
        ArgumentError: ``lm`` is none or has no tokenizer, ``good`` or ``bad`` is not one token of it, or they
            are the same one. When a search begins: the model that searches has no tokenizer.
    """

    lm: HasEngine
    good: str | int = "+"
    bad: str | int = "-"
    template: Callable[[Any], Any] | None = None
    suffix: str = ""

    def __post_init__(self) -> None:
        if not hasattr(self.lm, "engine"):
            raise ArgumentError(f"lm is {self.lm!r}, expected a hornbeam.LM")
        if self.lm.engine.tokenizer is None:
            raise ArgumentError("lm has no tokenizer, expected one: a reward model reads text")
        if self.template is not None and not callable(self.template):
            raise ArgumentError(f"template is {self.template!r}, expected a callable or None")
        if not isinstance(self.suffix, str):
            raise ArgumentError(f"suffix is {self.suffix!r}, expected text")
        good, bad = self.answers
        if good == bad:
            raise ArgumentError(f"good and bad are both token {good}, expected two")

    @property
    def answers(self) -> tuple[int, int]:
        """The token ids of ``good`` and ``bad``."""
        return self._token("good", self.good), self._token("bad", self.bad)

    def _token(self, name: str, said: Any) -> int:
        given = said if isinstance(said, str) else [said]
        ids = token_ids(self.lm.engine, given, name, special=False)
        if len(ids) != 1:
            raise ArgumentError(f"{name} is {said!r}, which is {len(ids)} tokens of lm, expected one token")
        return ids[0]

    def open(self, facts: SearchFacts) -> OpenValue:
        """Begins a search. Nothing is read before the first step."""
        if not facts.has_text:
            raise ArgumentError(
                "the model that searches has no tokenizer, expected one: a reward model reads text"
            )
        said = facts.prompt if self.template is None else self.template(facts.prompt)
        return _Reader(self, token_ids(self.lm.engine, said, "prompt"))


@dataclass(eq=False)
class _Place:
    """The end of a text that was read: a node, or several whose texts are the same.

    Attributes:
        tokens: of the text.
        reading: holds the text in the tree; None before it is read.
        value: None until it was asked for.
    """

    tokens: list[int]
    reading: Any = None
    value: float | None = None


@dataclass(eq=False)
class _Reader(OpenValue):
    """:class:`RewardModel` at work on one search."""

    model: RewardModel
    prompt: list[int]
    _places: dict[int, _Place] = field(default_factory=dict)  # by node

    def __post_init__(self) -> None:
        self._engine = self.model.lm.engine
        self._good, self._bad = self.model.answers
        tokenizer, suffix = self._engine.tokenizer, self.model.suffix
        self._suffix = text_ids(tokenizer, suffix, special=False) if suffix else []

    def __call__(self, paths: Sequence[Path]) -> list[float]:
        """One number a path."""
        if 0 not in self._places:
            self._places[0] = _Place(self.prompt)
            self._read([self._places[0]], wants_logits=False)
        fresh: dict[tuple[int, ...], _Place] = {}
        for path in paths:
            self._places[path.node] = self._place(path, fresh)
        self._read(list(fresh.values()), wants_logits=not self._suffix)
        if self._suffix:
            self._ask(list(fresh.values()))
        found = [self._places[path.node].value for path in paths]
        return [value for value in found if value is not None]

    def _place(self, path: Path, fresh: dict[tuple[int, ...], _Place]) -> _Place:
        """Where a path ends: at one of ``fresh``, or where its parent does if it adds nothing to read."""
        tokens = self._tokens(path)
        before = None if path.parent is None else self._places.get(path.parent.node)
        if before is not None and before.value is not None and len(tokens) == len(before.tokens):
            return before
        return fresh.setdefault(tuple(tokens), _Place(tokens))

    def _tokens(self, path: Path) -> list[int]:
        """Those of the prompt and of each step."""
        if path.node in self._places or path.parent is None:
            return self._places[path.node].tokens
        more = text_ids(self._engine.tokenizer, path.step_text, special=False) if path.step_text else []
        return [*self._tokens(path.parent), *more]

    def _read(self, places: Sequence[_Place], wants_logits: bool) -> None:
        """Reads what the texts of these have beyond what is held."""
        texts = [place.tokens for place in places]
        readings = self._engine.read(texts, owner=self, wants_logits=wants_logits)
        for place, reading in zip(places, readings, strict=True):
            place.reading = reading
        self._run(readings)
        if wants_logits:
            for place in places:
                place.value = self._value_of(place.reading)

    def _ask(self, places: Sequence[_Place]) -> None:
        """Reads the suffix behind each, and takes it back."""
        readings = self._engine.read([[*place.tokens, *self._suffix] for place in places], owner=self)
        try:
            self._run(readings)
            for place, reading in zip(places, readings, strict=True):
                place.value = self._value_of(reading)
        finally:
            self._engine.close_all(readings)

    def _run(self, readings: Sequence[Any]) -> None:
        self._engine.run(readings)
        for reading in readings:
            if reading.error is not None:
                raise reading.error

    def _value_of(self, reading: Any) -> float:
        good, bad = reading.logits[[self._good, self._bad]].double().tolist()
        reading.logits = None
        return 1 / (1 + math.exp(min(bad - good, 700.0)))

    def forget(self, nodes: Sequence[int]) -> None:
        """Lets go of the texts of these nodes, unless others have them too."""
        gone = [self._places.pop(node) for node in nodes if node in self._places]
        held = {id(place) for place in self._places.values()}
        self._close([place for place in gone if id(place) not in held])

    def close(self) -> None:
        """Lets go of all."""
        places = list(self._places.values())
        self._places.clear()
        self._close(places)

    def _close(self, places: Sequence[_Place]) -> None:
        self._engine.close_all([place.reading for place in places if place.reading is not None])
