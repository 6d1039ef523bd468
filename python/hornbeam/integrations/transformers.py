"""hornbeam inside ``model.generate``: ``custom_generate=hornbeam.integrations.transformers.generate``::

    inputs = lm.tokenizer(prompt, return_tensors="pt")
    loop = hb.integrations.transformers.generate
    lm.model.generate(**inputs, max_new_tokens=8, do_sample=False, custom_generate=loop)

transformers prepares inputs, logits processors and stopping criteria as for its own loops, and calls
:func:`generate` in place of them. It honours the generation config, every logits processor and every
stopping criterion, in batches of any left padding, or refuses by name what it does not do. The common
warpers run natively; what is known to answer from its arguments alone runs row by row along each draft
(:mod:`hornbeam.integrations.processors`). All else is asked as in transformers, once a step and in order,
about ``[batch, padded]`` ids: a single prompt keeps its drafts, of which it sees the accepted tokens alone;
several prompts step together, without drafts.

transformers keeps its own ``streamer=`` and ``assistant_model=`` to itself for a custom loop, so a streamer
goes by ``token_streamer=`` and a draft by ``drafter=``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hornbeam import speculation
from hornbeam.engine.answering import answer
from hornbeam.engine.lockstep import Lockstep
from hornbeam.engine.request import Request
from hornbeam.errors import ArgumentError
from hornbeam.integrations.assisted import CandidateGenerator, speculative_sampling
from hornbeam.integrations.processors import Criteria, Processors
from hornbeam.lm import LM

__all__ = ["CandidateGenerator", "generate", "speculative_sampling"]

_DEFAULT_DRAFTER = speculation.Auto()

# Options of the generation config that belong to loops of another kind.
_OTHER_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
# Fields that choose another loop, with the values that do not.
_REFUSED_FIELDS: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (None, 0, 0.0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "use_mtp": (None, False),
    "assistant_early_exit": (None,),
    "token_healing": (None, False),
}
# Inputs of a forward pass that are made anew in this loop, and mean nothing else in it.
_USED_INPUTS = ("attention_mask", "position_ids", "use_cache", "cache_position", "logits_to_keep")
# What transformers has called the cache.
_CACHES = ("past_key_values", "cache", "cache_params")


def generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    drafter: Any = _DEFAULT_DRAFTER,
    token_streamer: Any = None,
    sampling_seed: int | None = None,
    **model_kwargs: Any,
) -> Any:
    """The decoding loop, with the signature that ``custom_generate`` asks for.

    Args:
        model, input_ids, logits_processor, stopping_criteria, generation_config: as transformers
            prepares them; ``input_ids [batch, length]``, left padded with ``attention_mask``.
        drafter: where guesses come from; ``None`` decodes plainly.
        token_streamer: a transformers ``BaseStreamer``; a batch of one only.
        sampling_seed: seed of the sampling; drawn from torch's global generator by default, so that
            ``torch.manual_seed`` decides.
        model_kwargs: inputs of the forward pass: ``attention_mask`` is read, and what asks for another loop
            is refused.

    Returns:
        ``[batch, length + new tokens]``, right padded, or a ``GenerateDecoderOnlyOutput`` with
        ``return_dict_in_generate``.

    Raises:
        ArgumentError: beam search, scores or attentions, a filled cache or input embeddings were asked for.
        UnsupportedModel: the architecture cannot be driven over pages.
    """
    config = generation_config
    padding = _padding(input_ids, model_kwargs.get("attention_mask"))
    _refuse(model, input_ids, config, token_streamer, model_kwargs)
    _check_positions(input_ids, padding, model_kwargs.get("position_ids"))
    lm = _lm(model)
    rows = [row.tolist() for row in input_ids]
    processors = Processors.of(logits_processor, bool(config.do_sample), padding)
    criteria = Criteria.of(stopping_criteria)
    max_length = criteria.max_length if criteria.max_length is not None else config.max_length
    if sampling_seed is None:
        sampling_seed = int(torch.randint(2**63 - 1, (), device="cpu")) if config.do_sample else 0
    # Several rows that may look at each other, or at the order in which they are asked, step together.
    is_apart = processors.is_pure and criteria.is_pure and criteria.ends_rows
    is_together = len(rows) > 1 and not is_apart
    lockstep = None
    if is_together:
        pad = _pad_token(config)
        lockstep = Lockstep(
            processors.rest,
            criteria.rest,
            pad_token_id=0 if pad is None else pad,
            device=input_ids.device,
            ends_rows=criteria.ends_rows,
        )
    answers = answer(
        lm.engine,
        lambda: [row[skipped:] for row, skipped in zip(rows, padding, strict=True)],
        lm.engine.options_of(
            max_new_tokens=max(0, max_length - input_ids.shape[1]),
            draft=drafter,
            warp=processors.warp,
            seed=sampling_seed,
            logits_processor=None if is_together else processors.by_row(),
            stopping_criterion=None if is_together else criteria.by_row(input_ids.device),
            eos_token_id=list(criteria.eos_token_ids),
            defaults="none",  # transformers has made processors of them
        ),
        show=None if token_streamer is None else _shower(token_streamer, input_ids),
        before=[row[:skipped] for row, skipped in zip(rows, padding, strict=True)],
        lockstep=lockstep,
    )
    if token_streamer is not None:
        token_streamer.end()
    sequences = _pad(input_ids, [found.token_ids for found in answers], config)
    if not config.return_dict_in_generate:
        return sequences
    from transformers.generation import GenerateDecoderOnlyOutput

    return GenerateDecoderOnlyOutput(sequences=sequences)


class _Slot:
    """Keeps the LM of a model on the model, and stays behind when the model is copied or pickled."""

    def __init__(self, lm: LM | None = None) -> None:
        self.lm = lm

    def __reduce__(self) -> tuple[type[_Slot], tuple[()]]:
        return _Slot, ()


def _lm(model: Any) -> LM:
    slot = model.__dict__.setdefault("_hornbeam", _Slot())
    if slot.lm is None:
        slot.lm = LM(model)
    return slot.lm


def _shower(streamer: Any, input_ids: torch.Tensor) -> Callable[[Request], None]:
    """Hands tokens to a streamer of transformers."""
    streamer.put(input_ids.cpu())

    def show(request: Request) -> None:
        for chunk in request.chunks():
            for token in chunk.token_ids:
                streamer.put(torch.tensor([token]))

    return show


def _padding(input_ids: torch.Tensor, mask: torch.Tensor | None) -> list[int]:
    """How many tokens of each row are padding before its prompt.

    Raises:
        ArgumentError: the mask is not that of a left-padded batch.
    """
    if mask is None:
        return [0] * len(input_ids)
    if mask.shape != input_ids.shape:
        raise ArgumentError(
            f"attention_mask has shape {list(mask.shape)}, expected {list(input_ids.shape)} of input_ids"
        )
    seen = mask != 0
    skipped = (~seen).sum(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    if not bool((seen == (positions[None] >= skipped[:, None])).all()) or bool((~seen[:, -1:]).any()):
        raise ArgumentError(
            "attention_mask leaves tokens out within or after a prompt, expected left padding"
        )
    found: list[int] = skipped.tolist()
    return found


def _check_positions(input_ids: torch.Tensor, padding: list[int], position_ids: torch.Tensor | None) -> None:
    """Raises ArgumentError unless each prompt's tokens are numbered from 0, as transformers does it."""
    if position_ids is None:
        return
    expected = torch.arange(input_ids.shape[1], device=position_ids.device)
    rows = position_ids.expand(*input_ids.shape) if position_ids.dim() == 2 else None
    for place, skipped in enumerate(padding):
        own = expected[: input_ids.shape[1] - skipped]
        if rows is None or not torch.equal(rows[place, skipped:], own.to(rows.dtype)):
            raise ArgumentError(
                "position_ids are given, expected each prompt's tokens numbered from 0, or none at all"
            )


def _refuse(
    model: Any, input_ids: torch.Tensor, config: Any, streamer: Any, model_kwargs: dict[str, Any]
) -> None:
    """Raises ArgumentError for what this loop does not do."""
    for name, plain in _REFUSED_FIELDS.items():
        value = getattr(config, name, None)
        if value is not None and value not in plain:
            raise ArgumentError(
                f"{name} is {value!r}, expected {plain[0]!r}: hornbeam's loop does not do that"
            )
    for name in _OTHER_OUTPUTS:
        if config.return_dict_in_generate and getattr(config, name, False):
            raise ArgumentError(f"{name} is True, expected False: hornbeam's loop does not keep it")
    if streamer is not None and input_ids.shape[0] != 1:
        raise ArgumentError(f"token_streamer takes a batch of 1, got {input_ids.shape[0]}")
    if "prepare_inputs_for_generation" in vars(model):
        raise ArgumentError(
            "the model's prepare_inputs_for_generation was replaced, as prompt tuning does; expected that of "
            "its class: hornbeam's loop makes the inputs itself"
        )
    for name, value in model_kwargs.items():
        if name in _USED_INPUTS or value is None:
            continue
        if name in _CACHES:
            if value.get_seq_length() > 0:
                raise ArgumentError(
                    f"{name} holds {value.get_seq_length()} tokens, expected none: "
                    "hornbeam keeps pages of its own"
                )
            continue
        raise ArgumentError(f"{name} is given, expected it left out: hornbeam's loop has no use for it")


def _pad_token(config: Any) -> int | None:
    """What stands after a row that has ended."""
    pad = config.pad_token_id
    if pad is None:
        eos = config.eos_token_id
        pad = eos[0] if isinstance(eos, (list, tuple)) else eos
    return None if pad is None else int(pad)


def _pad(input_ids: torch.Tensor, outputs: list[list[int]], config: Any) -> torch.Tensor:
    longest = max(map(len, outputs), default=0)
    pad = _pad_token(config)
    if pad is None:
        if len({len(output) for output in outputs}) > 1:
            raise ArgumentError("pad_token_id is None, and the sequences of the batch differ in length")
        pad = 0
    new = [output + [pad] * (longest - len(output)) for output in outputs]
    fresh = torch.tensor(new, dtype=input_ids.dtype, device=input_ids.device).reshape(len(outputs), longest)
    return torch.cat([input_ids, fresh], dim=1)
