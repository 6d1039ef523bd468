"""What a checkpoint's generation config asks for: transformers' ``generate`` obeys it unasked, and so do we.

The fields that shape a text whatever it is sampled by are honoured: penalties, suppressed and forced tokens,
bad words, n-gram rules, least lengths, sequence bias. Sampling stays greedy unless it is asked for, since a
text that changes from call to call is a surprise where nobody asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hornbeam.engine.processors import EachPrompt, Processor, RowProcessor
from hornbeam.errors import ArgumentError
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from hornbeam.engine.options import Options

__all__ = ["Checkpoint", "Defaults"]

Defaults = Literal["text", "checkpoint", "none"]

# Fields, with the values that ask for nothing.
_TEXT_FIELDS: dict[str, tuple[Any, ...]] = {
    "sequence_bias": (None, {}),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
}

# What else shapes a text and is not honoured here, with the values that ask for nothing: refused where a
# caller asks for all that the checkpoint says.
_REFUSED_FIELDS: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "guidance_scale": (None, 1),
    "typical_p": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
    "top_h": (None,),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "watermarking_config": (None,),
    "encoder_repetition_penalty": (None, 1),
    "encoder_no_repeat_ngram_size": (None, 0),
    "renormalize_logits": (None, False),
    "stop_strings": (None,),
    "max_time": (None,),
}

_PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


class Checkpoint:
    """The defaults of one model.

    Args:
        model: its ``generation_config`` is read anew for every call.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def sampling(self, defaults: Defaults, warp: Warp) -> Warp:
        """The warp of a request that names none of its own.

        Raises:
            ArgumentError: all of the checkpoint's defaults are asked for, and one is not honoured here.
        """
        config = getattr(self.model, "generation_config", None)
        if defaults == "none" or config is None:
            return warp
        if defaults == "checkpoint":
            for name, plain in _REFUSED_FIELDS.items():
                value = getattr(config, name, None)
                if value not in plain:
                    raise ArgumentError(
                        f"the checkpoint's generation_config has {name}={value!r}, which is not honoured; "
                        "expected defaults='text' or 'none'"
                    )
        given: dict[str, Any] = {
            name: getattr(warp, name)
            for name in ("temperature", "top_k", "top_p", "min_p", "bias", *_PENALTIES)
        }
        if defaults == "checkpoint" and config.do_sample and _samples_nothing(warp):
            temperature = 1.0 if config.temperature is None else config.temperature
            # transformers has both off by these values.
            top_k = config.top_k or None
            top_p = None if config.top_p in (None, 1.0) else config.top_p
            given |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": config.min_p}
        fields = self.text_fields()
        if _is_penalty_early(fields):
            if warp.repetition_penalty is not None:
                raise ArgumentError(
                    f"repetition_penalty is {warp.repetition_penalty} where the checkpoint has an "
                    "exponential_decay_length_penalty, which comes after it; expected defaults='none'"
                )
        elif warp.repetition_penalty is None and "repetition_penalty" in fields:
            given["repetition_penalty"] = float(fields["repetition_penalty"])
        return Warp(**given)

    def options_of(self, options: Options, index: int, prompt: Sequence[int]) -> Options:
        """The options of one sequence of a call: with its own processor, and what runs before that.

        Args:
            options: of the call.
            index: its place in the call.
            prompt: its token ids.

        Raises:
            ArgumentError: its processor is none, or none for the rule.
        """
        given = options.own_processor
        options = options.with_processor(
            given.made(index, prompt) if isinstance(given, EachPrompt) else given
        )
        if options.defaults == "none":
            return options
        fields = self.text_fields()
        if options.has_own_warp or not _is_penalty_early(fields):
            fields.pop("repetition_penalty", None)
        if not fields:
            return options
        parts = _processors(fields, options, len(prompt), self._device)
        own = options.processor
        if own is None:
            return options.with_processor(RowProcessor(parts, is_pure=True))
        return options.with_processor(RowProcessor([*parts, *own.processors], own.is_pure))

    def processors_of(self, options: Options, index: int, prompt: Sequence[int]) -> tuple[Processor, ...]:
        """What :meth:`options_of` makes of the same arguments, where no warp takes the penalty: transformers'
        own processors in its order, then the caller's.

        Args:
            options: of the call.
            index: its place in the call.
            prompt: its token ids.

        Raises:
            ArgumentError: the caller's processor is none.
        """
        given = options.own_processor
        own = given.made(index, prompt) if isinstance(given, EachPrompt) else given
        fields = {} if options.defaults == "none" else self.text_fields()
        parts = _processors(fields, options, len(prompt), self._device)
        return (*parts, *(() if own is None else own.processors))

    @property
    def _device(self) -> str:
        return str(next(self.model.parameters()).device)

    def text_fields(self) -> dict[str, Any]:
        """The fields that shape a text, by their names in ``generation_config``; those that ask for nothing
        are left out."""
        config = getattr(self.model, "generation_config", None)
        found = {name: getattr(config, name, None) for name in _TEXT_FIELDS}
        return {name: value for name, value in found.items() if value not in _TEXT_FIELDS[name]}


def _samples_nothing(warp: Warp) -> bool:
    """Whether nothing that shapes sampling was asked for."""
    return warp.temperature == 0 and warp.top_k is None and warp.top_p is None and warp.min_p is None


def _is_penalty_early(fields: dict[str, Any]) -> bool:
    """Whether the penalty cannot be left to the warp, since what follows it does not commute."""
    return "exponential_decay_length_penalty" in fields


def _processors(fields: dict[str, Any], options: Options, prompt_length: int, device: str) -> Sequence[Any]:
    """transformers' own processors, in its order."""
    from transformers.generation import logits_process as known

    eos = sorted(options.eos_token_ids)
    parts: list[Any] = []

    def add(field: str, make: Any, needs_eos: bool = False) -> None:
        if field in fields and (eos or not needs_eos):
            parts.append(make(fields[field]))

    add("sequence_bias", known.SequenceBiasLogitsProcessor)
    add("repetition_penalty", lambda value: known.RepetitionPenaltyLogitsProcessor(float(value)))
    add("no_repeat_ngram_size", known.NoRepeatNGramLogitsProcessor)
    add("bad_words_ids", lambda value: known.NoBadWordsLogitsProcessor(value, eos or None))
    add("min_length", lambda value: known.MinLengthLogitsProcessor(value, eos, device=device), True)
    add(
        "min_new_tokens",
        lambda value: known.MinNewTokensLengthLogitsProcessor(prompt_length, value, eos, device=device),
        True,
    )
    add("forced_bos_token_id", known.ForcedBOSTokenLogitsProcessor)
    last = prompt_length + options.max_new_tokens
    add(
        "forced_eos_token_id",
        lambda value: known.ForcedEOSTokenLogitsProcessor(last, value, device=device),
    )
    add(
        "exponential_decay_length_penalty",
        lambda value: known.ExponentialDecayLengthPenalty(value, eos, prompt_length),
        True,
    )
    add("suppress_tokens", lambda value: known.SuppressTokensLogitsProcessor(value, device=device))
    begin = prompt_length + int(prompt_length == 1 and "forced_bos_token_id" in fields)
    add(
        "begin_suppress_tokens",
        lambda value: known.SuppressTokensAtBeginLogitsProcessor(value, begin, device=device),
    )
    return parts
