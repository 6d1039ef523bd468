"""vLLM's verification and its protocol of custom proposers, without importing vLLM.

``rejection_sample`` stands in for ``vllm.v1.sample.rejection_sampler.rejection_sample`` (0.33 and older), and
:class:`Drafter` is a proposer for the method ``custom_class``::

    speculative_config={"method": "custom_class", "num_speculative_tokens": 8,
                        "model": "hornbeam.integrations.vllm.Drafter"}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hornbeam import speculation
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations.chains import check, check_tokens, count_accepted, draw, residual, token_probs

__all__ = ["Drafter", "SamplingMetadata", "rejection_sample"]

#: Stands in the place of a draft token where there is none.
PLACEHOLDER = -1


class SamplingMetadata(Protocol):
    """What is read of vLLM's ``SamplingMetadata``."""

    all_greedy: bool
    """Every request takes its argmax."""
    all_random: bool
    """No request does."""
    temperature: Tensor | None
    """``[B]``; 0 (-1 in older releases) is greedy."""
    generators: dict[int, torch.Generator]
    """By request; the others use torch's global generator."""


def rejection_sample(
    draft_token_ids: Tensor,
    num_draft_tokens: list[int],
    max_spec_len: int,
    cu_num_draft_tokens: Tensor,
    draft_probs: Tensor | None,
    target_logits: Tensor | None = None,
    bonus_token_ids: Tensor | None = None,
    sampling_metadata: SamplingMetadata | None = None,
    synthetic_mode: bool = False,
    synthetic_conditional_rates: Tensor | None = None,
    use_fp64_gumbel: bool = False,
    fly_window_size: int | None = None,
    fly_entropy_threshold: float | None = None,
    *,
    target_probs: Tensor | None = None,
) -> Tensor:
    """Speculative sampling of ragged chains (Leviathan et al. 2023); exact, greedy requests included.

    Current releases pass processed *logits* as the sixth argument; older ones passed probabilities in
    the same place: name them ``target_probs=``. Differs from vLLM in that a replacement is drawn for the
    one row of a request that needs it, independently of the draft, and in the random numbers themselves.
    As there, a token that ``draft_probs`` gives no mass is rejected, and so is the placeholder -1. No law
    drew that one, so what replaces it comes from the target itself.

    Args:
        draft_token_ids: ``[N]``, the requests' drafts one after the other; -1 where there is none.
        num_draft_tokens: how many each request has, 0 included.
        max_spec_len: the most that any has.
        cu_num_draft_tokens: ``[B]``, their running sum.
        draft_probs: ``[N, V]`` normalised, what the drafts were drawn from; None for chosen drafts.
        target_logits: ``[N, V]``, with temperature and truncation applied.
        bonus_token_ids: ``[B, 1]`` or ``[B]``, the token after a draft that is accepted whole.
        sampling_metadata: see :class:`SamplingMetadata`.
        synthetic_mode, synthetic_conditional_rates: refused: they decide without the model.
        use_fp64_gumbel: taken and ignored.
        fly_window_size, fly_entropy_threshold: refused unless None: FLy lets pass what the target rejects.
        target_probs: in place of ``target_logits``.

    Returns:
        int32 ``[B, max_spec_len + 1]``: accepted tokens and one more, padded with -1.

    Raises:
        ShapeError: shapes that do not fit, among themselves or with ``num_draft_tokens``.
        ArgumentError: neither or both of the targets, a token id out of range, the synthetic mode, or FLy.
    """
    if synthetic_mode:
        raise ArgumentError("synthetic_mode is True, expected False: acceptance is decided by the model")
    for name, value in (
        ("fly_window_size", fly_window_size),
        ("fly_entropy_threshold", fly_entropy_threshold),
    ):
        if value is not None:
            raise ArgumentError(f"{name} is {value}, expected None: acceptance is decided by the model")
    if (target_logits is None) == (target_probs is None):
        raise ArgumentError("give one of target_logits and target_probs")
    if bonus_token_ids is None or sampling_metadata is None:
        raise ArgumentError("bonus_token_ids and sampling_metadata are needed")
    target = target_probs if target_logits is None else target_logits
    assert target is not None
    batch, total = len(num_draft_tokens), sum(num_draft_tokens)
    check("draft_token_ids", draft_token_ids, (total,))
    check("the target", target, (total, None))
    check("bonus_token_ids", bonus_token_ids, (batch, 1) if bonus_token_ids.dim() != 1 else (batch,))
    bonus = bonus_token_ids.flatten()
    if draft_probs is not None:
        check("draft_probs", draft_probs, target.shape)
    ends = np.cumsum(num_draft_tokens, dtype=np.int64).tolist()
    if cu_num_draft_tokens.tolist() != ends:
        raise ShapeError(f"cu_num_draft_tokens is {cu_num_draft_tokens.tolist()}, expected {ends}")
    if any(not 0 <= count <= max_spec_len for count in num_draft_tokens):
        raise ShapeError(f"num_draft_tokens is {num_draft_tokens}, expected 0 to {max_spec_len} each")
    tokens = draft_token_ids.long()
    proposed = tokens != PLACEHOLDER
    check_tokens("draft_token_ids", tokens[proposed], target.shape[1])

    greedy = _greedy(batch, sampling_metadata)
    best = target.argmax(-1) if any(greedy) else None
    p = q = None
    if not all(greedy):
        known = tokens.where(proposed, 0)
        p = (
            token_probs(target, known)
            if target_logits is not None
            else target.gather(1, known[:, None])[:, 0].float()
        )
        q = torch.ones_like(p) if draft_probs is None else draft_probs.gather(1, known[:, None])[:, 0]
        # A token without target mass never passes.
        p = p.where(proposed & (q > 0), 0)

    output = torch.full((batch, max_spec_len + 1), -1, dtype=torch.int32, device=target.device)
    for request, (count, end) in enumerate(zip(num_draft_tokens, ends, strict=True)):
        mine = slice(end - count, end)
        generator = sampling_metadata.generators.get(request) if count else None
        if greedy[request]:
            assert best is not None
            accepted = int((best[mine] == tokens[mine]).long().cumprod(0).sum())
        else:
            assert p is not None
            assert q is not None
            uniforms = torch.rand(count, generator=generator, device=target.device)
            accepted = int(count_accepted(p[mine], q[mine], uniforms))
        output[request, :accepted] = tokens[mine][:accepted].int()
        if accepted == count:
            last = bonus[request]
        elif greedy[request]:
            assert best is not None
            last = best[end - count + accepted]
        else:
            row = end - count + accepted
            law = target[row].float()
            law = law.softmax(-1) if target_logits is not None else law
            if not proposed[row]:
                refused = torch.zeros_like(law)
            elif draft_probs is None:
                refused = torch.zeros_like(law)
                refused[tokens[row]] = law[tokens[row]]
            else:
                refused = draft_probs[row].float()
            last = draw(residual(law, refused)[None], generator)[0]
        output[request, accepted] = last.int()
    return output


def _greedy(batch: int, metadata: SamplingMetadata) -> list[bool]:
    if metadata.all_greedy:
        return [True] * batch
    if metadata.all_random or metadata.temperature is None:
        return [False] * batch
    check("temperature", metadata.temperature, (batch,))
    return (metadata.temperature <= 0).tolist()


class Drafter:
    """A proposer for vLLM's method ``custom_class``: any of hornbeam's sources of text.

    The protocol names no requests, and vLLM moves them about in the batch, so a request is recognised by
    its tokens. Subclass it and set ``source`` for another draft.

    Args:
        vllm_config: its ``speculative_config.num_speculative_tokens`` and ``model_config.max_model_len``
            are read.
    """

    source: Any = speculation.Suffix()
    max_requests = 4096
    """Requests remembered; the one not seen for longest is forgotten, and indexed anew if it returns."""

    def __init__(self, vllm_config: Any) -> None:
        self.num_speculative_tokens = int(vllm_config.speculative_config.num_speculative_tokens)
        self.max_model_len = int(vllm_config.model_config.max_model_len)
        self._known: OrderedDict[tuple[int, bytes], tuple[np.ndarray, Any]] = OrderedDict()

    def load_model(self, *_: Any, **__: Any) -> None:
        """There is none."""

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: Any,
        token_ids_cpu: Any,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Drafts for a batch.

        Args:
            sampled_token_ids: the tokens that each request got in this step; none during its prefill.
            num_tokens_no_spec: ``[B]``, tokens of each request, these included.
            token_ids_cpu: ``[B, length]``, their ids.
            slot_mappings: ignored.

        Returns:
            At most ``num_speculative_tokens`` ids a request; none where it had no new token, has no text or
            is full.
        """
        texts = np.asarray(token_ids_cpu)
        if texts.ndim != 2 or texts.shape[0] < len(sampled_token_ids):
            raise ShapeError(
                f"token_ids_cpu has shape {list(texts.shape)}, expected [{len(sampled_token_ids)}, any]"
            )
        drafts: list[list[int]] = []
        for request, fresh in enumerate(sampled_token_ids):
            length = int(num_tokens_no_spec[request])
            room = min(self.num_speculative_tokens, self.max_model_len - length - 1)
            if not len(fresh) or length < 1 or room < 1:
                drafts.append([])
                continue
            text = texts[request, :length]
            drafter = self._follow(text, length - len(fresh))
            drafts.append(list(drafter.propose(int(text[-1]), room).tokens))
        while len(self._known) > self.max_requests:
            self._known.popitem(last=False)
        return drafts

    def _follow(self, text: np.ndarray, before: int) -> Any:
        """The request's drafter, with all of ``text`` but its last token committed."""
        old = self._known.get(_key(text[:before]))
        if old is not None and np.array_equal(old[0], text[:before]):
            del self._known[_key(text[:before])]
            drafter = old[1]
            drafter.extend(text[before - 1 : -1].tolist())
        else:
            drafter = self.source.start(text[:-1].tolist())
        self._known[_key(text)] = (text.copy(), drafter)
        return drafter


def _key(text: np.ndarray) -> tuple[int, bytes]:
    return len(text), text[-32:].tobytes()
