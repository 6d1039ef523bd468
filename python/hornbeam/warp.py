"""How logits become the law that tokens are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from hornbeam import _native
from hornbeam.errors import ArgumentError

__all__ = ["Warp"]

_OPTIONAL_FLOATS = ("top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")


class _LeftOut(float):
    """The temperature of a warp that was made without one."""


@dataclass(frozen=True)
class Warp:
    """Temperature, truncation and penalties, in the order of transformers.

    1. ``bias`` is added to raw logits (-inf forbids a token), then penalties apply:
       ``repetition_penalty`` divides positive and multiplies negative logits of tokens in the prompt
       or the output, once a token (CTRL, Keskar et al. 2019; transformers); ``frequency_penalty`` is
       subtracted once for each occurrence in the output, ``presence_penalty`` once for a token that
       occurs there (OpenAI, vLLM). In verification they follow the draft: the row after some draft
       tokens sees them as output.
    2. ``temperature`` divides; 0 takes the argmax. Left out it is 1, but :meth:`hornbeam.LM.generate` is
       greedy unless a temperature is given, here too.
    3. ``top_k`` keeps the k greatest logits; then ``top_p`` the fewest likeliest tokens whose mass
       reaches p; then ``min_p`` those at least p times as likely as the likeliest.

    Ties go to the lowest id. So top-k keeps exactly k tokens, where transformers keeps all that tie
    with the last.

    Args:
        temperature: divides logits; 0 takes the argmax.
        top_k: keeps so many of the greatest logits.
        top_p: keeps the fewest likeliest tokens of so much mass, 0 to 1.
        min_p: keeps tokens at least so likely, as a share of the likeliest, 0 to 1.
        bias: is added to the raw logits of these token ids.
        repetition_penalty: of tokens in prompt or output; 1 does nothing.
        frequency_penalty: for each occurrence in the output; 0 does nothing.
        presence_penalty: for a token that occurs in the output; 0 does nothing.

    Raises:
        ArgumentError: a value lies outside of its range.
    """

    temperature: float = _LeftOut(1.0)  # a number cannot be changed
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    bias: Mapping[int, float] | None = field(default=None, hash=False)
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", *_OPTIONAL_FLOATS):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real | None):
                raise ArgumentError(f"{name} is {value!r}, expected a number")
            if value is not None and not isinstance(value, int | float):  # numpy's
                object.__setattr__(self, name, float(value))
        if self.temperature is None:
            raise ArgumentError("temperature is None, expected a number")
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, Integral)):
            raise ArgumentError(f"top_k is {self.top_k!r}, expected an integer")
        if self.top_k is not None:
            object.__setattr__(self, "top_k", int(self.top_k))
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(f"top_k is {self.top_k}, expected at least 1")
        bias = dict(self.bias) if self.bias else {}
        for token in bias:
            if not 0 <= token < 1 << 32:
                raise ArgumentError(f"a token of bias is {token}, expected a vocabulary id")
        handle = _native.Warp(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            sorted(bias.items()),
            self.repetition_penalty,
            self.frequency_penalty,
            self.presence_penalty,
        )
        object.__setattr__(self, "_handle", handle)

    @property
    def has_temperature(self) -> bool:
        """Whether a temperature was given."""
        return not isinstance(self.temperature, _LeftOut)

    @property
    def is_greedy(self) -> bool:
        """Whether the law is the argmax."""
        return self.temperature == 0

    @property
    def has_penalties(self) -> bool:
        """Whether the law depends on the tokens before it."""
        return any(
            value not in (None, neutral)
            for value, neutral in (
                (self.repetition_penalty, 1),
                (self.frequency_penalty, 0),
                (self.presence_penalty, 0),
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()
