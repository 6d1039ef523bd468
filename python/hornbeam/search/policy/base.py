"""What a policy is: which leaves are expanded next, and into how many children."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.search.beam_groups import BeamGroups, BeamRules

if TYPE_CHECKING:
    from hornbeam.search.path import Path

__all__ = ["Expansion", "NativeSearch", "Policy", "Search", "TokenPolicy"]


class Expansion(NamedTuple):
    """Some children of a leaf that are to be written and valued."""

    trial: int
    """Names the expansion in :meth:`Search.tell`."""
    leaf: int
    """The node to go on from; 0 is the prompt."""
    first_child: int
    """The number of the first child; the others follow."""
    children: int
    """How many."""


class Search:
    """A policy at work on one prompt: asked for expansions, and told what became of them, in any order."""

    def ask(self, most: int | None = None) -> list[Expansion]:
        """What to do next, with at most ``most`` children in all. Nothing while something that decides it
        is still to be told, and nothing any more once the search is over."""
        raise NotImplementedError

    def tell(self, trial: int, values: Sequence[float], finished: Sequence[bool], **notes: Any) -> None:
        """What the children of the expansion ``trial`` are worth, in their order (``values``), and which of
        them have ended (``finished``). To tell the same again does nothing. ``notes`` are what the policy's
        :meth:`Policy.notes` gives, one a child.

        Raises:
            ArgumentError: the trial was not asked; there is not one value a child; a value is not finite,
                or out of the policy's range; or something else was told before. Nothing has changed then.
        """
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to ask and to be told."""
        raise NotImplementedError

    def live(self) -> list[bool]:
        """Which nodes may still be gone on from, by number."""
        raise NotImplementedError


class NativeSearch(Search):
    """A policy that runs in the core."""

    def __init__(self, native: _native.SearchPolicy) -> None:
        self._native = native

    def ask(self, most: int | None = None) -> list[Expansion]:
        """As :class:`Search` has it."""
        limit = (1 << 64) - 1 if most is None else max(most, 0)
        return [Expansion(*asked) for asked in self._native.ask(limit)]

    def tell(self, trial: int, values: Sequence[float], finished: Sequence[bool], **notes: Any) -> None:
        """As :class:`Search` has it. The notes are ``costs``, what it costs to hold each child's step (1
        where not told), and ``steps`` (the tokens of each) or ``features`` (a vector of each) to tell them
        apart by."""
        self._native.tell(trial, list(values), list(finished), **notes)

    @property
    def is_over(self) -> bool:
        """As :class:`Search` has it."""
        return self._native.is_over

    def live(self) -> list[bool]:
        """As :class:`Search` has it."""
        return self._native.live()

    def nodes(self) -> list[tuple[int, int, float, str]]:
        """(parent, depth, value, state) of every node, by number; states are asked, open and finished."""
        return self._native.nodes()


@dataclass(frozen=True)
class Policy:
    """A way to search, and how its steps are sampled. One of your own overrides :meth:`open`.

    Attributes:
        temperature: of the steps; 0 is greedy, so that siblings are all the same.
        top_p: of the steps.
        max_depth: steps of a path.
    """

    name: ClassVar[str]
    wants_probability: ClassVar[bool] = False
    """Whether it takes values from 0 to 1 alone."""

    temperature: float = 1.0
    top_p: float | None = None
    max_depth: int = 25

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_depth", whole_number(self.max_depth, "max_depth", 1))

    def notes(self, paths: Sequence[Path], kv_bytes: Sequence[int]) -> dict[str, Any]:
        """What :meth:`Search.tell` is to be told of ``paths`` beside their values, as its keyword
        arguments. ``kv_bytes`` is what the pages of each last step take."""
        return {}

    def open(self, seed: int) -> Search:
        """Begins a search; ``seed`` names the random numbers of the policy's own."""
        raise ArgumentError(f"{type(self).__name__} has no method open, expected a class that overrides it")


@dataclass(frozen=True)
class TokenPolicy:
    """A search over tokens: the next tokens of all its beams are chosen together, from the log-probabilities
    of one step. One of your own overrides :meth:`start`.

    Attributes:
        width: beams under way.
        length_penalty: a score is the sum of the log-probabilities over the length to this power: above 0 it
            favours long texts, below 0 short ones.
        early_stopping: True ends the search once ``width`` beams have ended; False once the best beam under
            way could not be better than the worst of these if it ended at its length; ``"never"`` once it
            could not at any length.
        max_new_tokens: tokens of a beam, the end token included.
    """

    name: ClassVar[str]

    width: int = 8
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", whole_number(self.width, "width", 1))
        object.__setattr__(self, "max_new_tokens", whole_number(self.max_new_tokens, "max_new_tokens", 1))
        self._check_number("length_penalty")
        given: Any = self.early_stopping
        if not isinstance(given, bool) and not (isinstance(given, str) and given == "never"):
            raise ArgumentError(f"early_stopping is {given!r}, expected True, False or 'never'")

    def _check_number(self, name: str) -> None:
        value: Any = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ArgumentError(f"{name} is {value!r}, expected a finite number")

    def _rules(self, width: int, max_new_tokens: int, eos_token_ids: Collection[int]) -> BeamRules:
        ends = tuple(sorted(eos_token_ids))
        return BeamRules(width, self.length_penalty, self.early_stopping, max_new_tokens, ends)

    def start(self, max_new_tokens: int, eos_token_ids: Collection[int], device: Any) -> BeamGroups:
        """The beams at the end of a prompt.

        Args:
            max_new_tokens: tokens of a beam, as many as there is room for.
            eos_token_ids: tokens that end one.
            device: of the scores.
        """
        return BeamGroups.start(self._rules(self.width, max_new_tokens, eos_token_ids), device, 1, 0.0)
