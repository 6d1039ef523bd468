"""What a request asks for: the checked arguments of :meth:`hornbeam.LM.generate`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from hornbeam import speculation
from hornbeam.attend.recipe import prefill_of
from hornbeam.attend.recipe import recipe_of as attend_of
from hornbeam.engine.checkpoint import Checkpoint, Defaults
from hornbeam.engine.processors import EachPrompt, RowProcessor, row_processor
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.keep.recipe import recipe_of
from hornbeam.speculation.declarations import takes_prediction
from hornbeam.speculation.named import draft_of, stop_rule_of
from hornbeam.speculation.rule import RULES, Rule, rule_of
from hornbeam.trace import Trace
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from hornbeam.engine.beams import Beams
    from hornbeam.engine.lockstep import Lockstep

__all__ = ["DEFAULT_DRAFT", "DEFAULT_LENGTH", "Keywords", "Options"]

DEFAULT_DRAFT = speculation.Auto()
DEFAULT_LENGTH = speculation.MeasuredGain()

Criterion = Callable[[list[int], list[int]], bool]


class Keywords(TypedDict, total=False):
    """The keywords of a request; :meth:`hornbeam.LM.generate` says what they mean."""

    max_new_tokens: int
    draft: Any
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    verify: str | Rule
    length: Any
    warp: Warp | None
    logits_processor: Any
    stopping_criterion: Criterion | None
    eos_token_id: Any
    trace: Trace | None
    keep: Any
    attend: Any
    prefill: Any
    logprobs: int | None
    echo: bool
    prediction: Any
    defaults: Defaults


@dataclass(frozen=True)
class Options:
    """The settings of one request, checked; :meth:`hornbeam.LM.generate` says what they mean."""

    max_new_tokens: int
    warp: Warp
    seed: int
    rule: Rule
    draft: Any
    length: Any
    stop: tuple[str, ...] = ()
    own_processor: RowProcessor | EachPrompt | None = None
    """What the caller gave, for all sequences of the call."""
    processor: RowProcessor | None = None
    """What the checkpoint asks for, then the caller's own, for one sequence."""
    lockstep: Lockstep | None = None
    beams: Beams | None = None
    criterion: Criterion | None = None
    eos_token_ids: frozenset[int] = frozenset()
    trace: Trace | None = None
    keep: Any = None
    attend: Any = None
    prefill: Any = None
    logprobs: int | None = None
    echo: bool = False
    prediction: tuple[int, ...] = ()
    """Token ids of what the caller expects the text to be: drafts draw on it, and the text is the same."""
    has_own_warp: bool = True
    """Whether all warpers were given at once, so that the checkpoint has no say in them."""
    defaults: Defaults = "none"

    @classmethod
    def greedy(cls, max_new_tokens: int, keep: Any = None) -> Options:
        """Plain greedy decoding: no draft, no stop."""
        warp = Warp(temperature=0.0)
        return cls(max_new_tokens, warp, seed=0, rule=RULES["coupled"], draft=None, length=None, keep=keep)

    @classmethod
    def of(
        cls,
        *,
        has_tokenizer: bool,
        checkpoint: Checkpoint,
        eos_token_ids: frozenset[int],
        max_new_tokens: int = 256,
        draft: Any = DEFAULT_DRAFT,
        length: Any = DEFAULT_LENGTH,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        seed: int | None = 0,
        stop: str | Sequence[str] | None = None,
        verify: str | Rule = "coupled",
        warp: Warp | None = None,
        logits_processor: Any = None,
        stopping_criterion: Criterion | None = None,
        trace: Trace | None = None,
        keep: Any = None,
        attend: Any = None,
        prefill: Any = None,
        logprobs: int | None = None,
        echo: bool = False,
        prediction: Sequence[int] = (),
        defaults: Defaults = "text",
    ) -> Options:
        """Checks the keywords of a call.

        Raises:
            ArgumentError: one is out of range.
        """
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens")
        if seed is None:
            seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        seed = whole_number(seed, "seed", 0, 2**64 - 1)
        if defaults not in ("text", "checkpoint", "none"):
            raise ArgumentError(f"defaults is {defaults!r}, expected 'text', 'checkpoint' or 'none'")
        has_own_warp = warp is not None
        parts: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
            "bias": logit_bias,
        }
        warp = _only(warp, parts) if has_own_warp else checkpoint.sampling(defaults, Warp(**parts))
        stops = _stops(stop)
        draft, keep = draft_of(draft), recipe_of(keep)
        if draft is not None:
            length = stop_rule_of(length)
        if prediction and not takes_prediction(draft):
            raise ArgumentError(
                f"prediction is given, and draft is {draft!r}, which does not draw on it; expected "
                "draft='auto' or 'suffix', or another that does"
            )
        if stops and not has_tokenizer:
            raise ArgumentError("stop strings need a tokenizer, and this LM has none")
        if logprobs is not None:
            logprobs = whole_number(logprobs, "logprobs")
        if stopping_criterion is not None and not callable(stopping_criterion):
            raise ArgumentError(
                f"stopping_criterion is {stopping_criterion!r}, expected a callable "
                "(prompt ids, output ids) -> bool"
            )
        if trace is not None and not isinstance(trace, Trace):
            raise ArgumentError(f"trace is {trace!r}, expected a hornbeam.Trace or None")
        if echo and logprobs is None:
            raise ArgumentError("echo is True, expected logprobs to be given too")
        given = row_processor(logits_processor)
        options = cls(
            max_new_tokens=max_new_tokens,
            warp=warp,
            seed=seed,
            rule=rule_of(verify),
            draft=draft,
            length=length,
            stop=stops,
            own_processor=given,
            criterion=stopping_criterion,
            eos_token_ids=eos_token_ids,
            trace=trace,
            keep=keep,
            attend=attend_of(attend),
            prefill=prefill_of(prefill),
            logprobs=logprobs,
            echo=echo,
            prediction=tuple(prediction),
            has_own_warp=has_own_warp,
            defaults=defaults,
        )
        return options if isinstance(given, EachPrompt) else options.with_processor(given)

    def with_processor(self, processor: RowProcessor | None) -> Options:
        """Those of a sequence with this processor.

        Raises:
            ArgumentError: the rule asks about guesses, and the processor may keep state.
        """
        if not (self.draft is None or processor is None or processor.is_pure or self.rule.shares_noise):
            raise ArgumentError(
                f"verify is {self.rule.name!r}, which asks the logits processor about tokens that may be "
                "refused, expected verify='coupled', or a processor with is_pure = True"
            )
        return replace(self, processor=processor)

    @property
    def reads_sparsely(self) -> bool:
        """Whether some of its rows read a part of their keys only."""
        return self.attend is not None or self.prefill is not None

    @property
    def drafting_key(self) -> tuple[Hashable, ...]:
        """Equal for requests that are drafted for and verified together. Their processors may differ."""
        kind = None if self.processor is None else self.processor.is_pure
        shared = (self.draft, self.length, self.warp, kind, self.lockstep, self.beams, self.rule)
        return tuple(_identity(value) for value in shared)


def _only(warp: Any, parts: dict[str, Any]) -> Warp:
    """A warp that stands for all of its parts; greedy unless it was made with a temperature.

    Raises:
        ArgumentError: it is none, or a part is given beside it.
    """
    if not isinstance(warp, Warp):
        raise ArgumentError(f"warp is {warp!r}, expected a hornbeam.Warp or None")
    for name, value in parts.items():
        if value != (0.0 if name == "temperature" else None):
            given = "logit_bias" if name == "bias" else name
            raise ArgumentError(f"{given} is {value!r} beside warp, expected it to be a part of the warp")
    return warp if warp.has_temperature else replace(warp, temperature=0.0)


def _stops(stop: Any) -> tuple[str, ...]:
    """The strings that end a text.

    Raises:
        ArgumentError: one is empty, or is no string.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for text in stops:
        if not isinstance(text, str):
            raise ArgumentError(f"stop holds {text!r}, expected strings; eos_token_id takes token ids")
        if not text:
            raise ArgumentError("stop is an empty string, expected at least one character")
    return stops


def _identity(value: Any) -> Hashable:
    """Equal for equal values, or for the same object where equality is not told by a hash."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value
