"""hornbeam inside ``model.generate``: ``custom_generate=hornbeam.integrations.transformers.generate``.

    model.generate(**inputs, max_new_tokens=200, custom_generate=hb.integrations.transformers.generate)

transformers prepares inputs, logits processors and stopping criteria as for its own loops, and calls
:func:`generate` in place of them. It honours the generation config, every logits processor (the common
warpers run natively, all others row by row along each draft) and every stopping criterion, in batches of
any padding. transformers keeps its own ``streamer=`` and ``assistant_model=`` to itself for a custom
loop, so a streamer goes by ``token_streamer=`` and a draft by ``drafter=``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hornbeam import speculation
from hornbeam.errors import ArgumentError
from hornbeam.integrations.assisted import CandidateGenerator, speculative_sampling
from hornbeam.lm import LM
from hornbeam.warp import Warp

__all__ = ["CandidateGenerator", "generate", "speculative_sampling"]

_DEFAULT_DRAFTER = speculation.Auto()

# Options of the generation config that belong to loops of another kind.
_OTHER_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


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

    Returns:
        ``[batch, length + new tokens]``, right padded, or a ``GenerateDecoderOnlyOutput`` with
        ``return_dict_in_generate``.

    Raises:
        ArgumentError: beam search, scores or attentions, a filled cache or input embeddings were asked for.
        UnsupportedModel: the architecture cannot be driven over pages.
    """
    config = generation_config
    _refuse(input_ids, config, token_streamer, model_kwargs)
    lm = _lm(model)
    mask = model_kwargs.get("attention_mask")
    prompts = [row.tolist() for row in input_ids]
    if mask is not None:
        prompts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
    warp, processor = _warp(logits_processor or [], bool(config.do_sample))
    eos, max_length, criterion = _criteria(stopping_criteria or [], input_ids.device)
    if max_length is None:
        max_length = config.max_length
    if sampling_seed is None:
        sampling_seed = int(torch.randint(2**63 - 1, ())) if config.do_sample else 0
    stream = None
    if token_streamer is not None:
        token_streamer.put(input_ids.cpu())

        def stream(_text: str, tokens: list[int], _source: str, **_: Any) -> None:
            for token in tokens:
                token_streamer.put(torch.tensor([token]))

    generations = lm.generate(
        prompts,
        max_new_tokens=max(0, max_length - input_ids.shape[1]),
        draft=drafter,
        warp=warp,
        seed=sampling_seed,
        stream=stream,
        logits_processor=processor,
        stopping_criterion=criterion,
        eos_token_id=sorted(eos),
    )
    if token_streamer is not None:
        token_streamer.end()
    sequences = _pad(input_ids, [g.token_ids for g in generations], config)
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


def _refuse(input_ids: torch.Tensor, config: Any, streamer: Any, model_kwargs: dict[str, Any]) -> None:
    if (config.num_beams or 1) != 1:
        raise ArgumentError(f"num_beams is {config.num_beams}, expected 1")
    for name in _OTHER_OUTPUTS:
        if config.return_dict_in_generate and getattr(config, name, False):
            raise ArgumentError(f"{name} is True, expected False: hornbeam's loop does not keep it")
    if streamer is not None and input_ids.shape[0] != 1:
        raise ArgumentError(f"token_streamer takes a batch of 1, got {input_ids.shape[0]}")
    if model_kwargs.get("inputs_embeds") is not None:
        raise ArgumentError("inputs_embeds are given, expected input_ids")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ArgumentError(
            f"past_key_values holds {cache.get_seq_length()} tokens, expected none: "
            "hornbeam keeps pages of its own"
        )


def _warp(processors: Any, do_sample: bool) -> tuple[Warp, Callable[..., torch.Tensor] | None]:
    """The processors as one :class:`Warp` and a rest. The rest runs before the warp, so a processor is
    translated only where none of the rest follows it."""
    from transformers.generation import logits_process as known

    options: dict[str, Any] = {}
    rest = list(processors)
    order = ["min_p", "top_p", "top_k", "temperature", "repetition_penalty"]
    while rest:
        last = rest[-1]
        if type(last) is known.TemperatureLogitsWarper:
            name, value = "temperature", float(last.temperature)
        elif type(last) is known.TopKLogitsWarper and last.filter_value == -float("inf"):
            name, value = "top_k", int(last.top_k)
        elif type(last) is known.TopPLogitsWarper and (last.min_tokens_to_keep, last.filter_value) == (
            1,
            -float("inf"),
        ):
            name, value = "top_p", float(last.top_p)
        elif type(last) is known.MinPLogitsWarper and (last.min_tokens_to_keep, last.filter_value) == (
            1,
            -float("inf"),
        ):
            name, value = "min_p", float(last.min_p)
        elif (
            type(last) is known.RepetitionPenaltyLogitsProcessor
            and getattr(last, "prompt_ignore_length", None) is None
        ):
            name, value = "repetition_penalty", float(last.penalty)
        else:
            break
        if name in options or name not in order:
            break
        order = order[order.index(name) + 1 :]
        options[name] = value
        rest.pop()
    if not do_sample:
        options = {"temperature": 0.0, **{k: v for k, v in options.items() if k == "repetition_penalty"}}
    if not rest:
        return Warp(**options), None

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for processor in rest:
            scores = processor(input_ids, scores)
        return scores

    return Warp(**options), process


def _criteria(
    criteria: Any, device: torch.device
) -> tuple[set[int], int | None, Callable[[list[int], list[int]], bool] | None]:
    """End-of-sequence tokens, the length limit, and the rest of the criteria as one callable."""
    from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

    eos: set[int] = set()
    max_length: int | None = None
    rest = []
    for criterion in criteria:
        if type(criterion) is EosTokenCriteria:
            eos.update(criterion.eos_token_id.flatten().tolist())
        elif type(criterion) is MaxLengthCriteria:
            max_length = min(criterion.max_length, max_length or criterion.max_length)
        else:
            rest.append(criterion)
    if not rest:
        return eos, max_length, None

    def stopped(prompt: list[int], output: list[int]) -> bool:
        seen = torch.tensor([[*prompt, *output]], device=device)
        return any(bool(torch.as_tensor(criterion(seen, None)).all()) for criterion in rest)

    return eos, max_length, stopped


def _pad(input_ids: torch.Tensor, outputs: list[list[int]], config: Any) -> torch.Tensor:
    longest = max(map(len, outputs), default=0)
    pad = config.pad_token_id
    if pad is None:
        eos = config.eos_token_id
        pad = eos[0] if isinstance(eos, (list, tuple)) else eos
    if pad is None:
        if len({len(output) for output in outputs}) > 1:
            raise ArgumentError("pad_token_id is None, and the sequences of the batch differ in length")
        pad = 0
    new = [output + [int(pad)] * (longest - len(output)) for output in outputs]
    fresh = torch.tensor(new, dtype=input_ids.dtype, device=input_ids.device).reshape(len(outputs), longest)
    return torch.cat([input_ids, fresh], dim=1)
