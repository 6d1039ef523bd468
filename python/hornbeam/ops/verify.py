"""Sampling, and verification of draft trees."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integers import integer_tensor
from hornbeam.warp import Warp

__all__ = ["Reads", "Verified", "probabilities", "sample", "sample_ids", "verify"]

Tokens = Tensor | Sequence[int]
History = Sequence[tuple[Tokens, Tokens]]

_PLAIN = Warp()


class Verified(NamedTuple):
    """What a target keeps of drafts.

    Attributes:
        accepted: int32 ``[B, max_depth]``: rows of the accepted draft tokens in order of depth, counted
            within the sequence: draft token ``i`` is row ``i + 1``, the root is row 0. Padded with -1.
        num_accepted: int32 ``[B]``.
        next_token: int64 ``[B]``: the token after the accepted ones.
    """

    accepted: Tensor
    num_accepted: Tensor
    next_token: Tensor

    def paths(self) -> list[tuple[list[int], int]]:
        """Per sequence the accepted rows and the next token, as lists."""
        counts, tokens = self.num_accepted.tolist(), self.next_token.tolist()
        rows = self.accepted.tolist()
        return [(path[:n], token) for path, n, token in zip(rows, counts, tokens, strict=True)]


class _Read(Verified):
    """Verdicts on a device, which the host has read already."""

    _paths: list[tuple[list[int], int]]

    def paths(self) -> list[tuple[list[int], int]]:
        return self._paths


class Reads:
    """What :func:`verify` read of its logits, summed over the calls that it was passed to.

    Attributes:
        target_rows: rows of the target, a row that was read again counted again.
        draft_rows: rows of the draft, likewise.
        elements: logits, over all passes over a row. Only the first pass reads memory: after it a row lies
            in the cache.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.int64, device="cpu")

    @property
    def target_rows(self) -> int:
        """Rows of the target."""
        return int(self._sums[0])

    @property
    def draft_rows(self) -> int:
        """Rows of the draft."""
        return int(self._sums[1])

    @property
    def elements(self) -> int:
        """Logits, over all passes."""
        return int(self._sums[2])


def _handles(warp: Warp | Sequence[Warp]) -> list[Any]:
    return [w._handle for w in ([warp] if isinstance(warp, Warp) else warp)]  # type: ignore[attr-defined]


def _ids(tokens: Tokens) -> Tensor:
    return integer_tensor(tokens, "history").contiguous()


def _seed(seed: int) -> int:
    if not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed is {seed}, expected 0 to 2**64 - 1")
    return seed


def verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    target_logits: Tensor,
    draft_logits: Tensor | None = None,
    *,
    rule: str = "coupled",
    warp: Warp | Sequence[Warp] = _PLAIN,
    draft_warp: Warp | Sequence[Warp] = _PLAIN,
    seed: int = 0,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    history: History | None = None,
    epsilon: float = 0.3,
    alpha: float = 0.09,
    reads: Reads | None = None,
) -> Verified:
    """Decides how much of each draft tree a target keeps, and which token comes next.

    Every rule but ``typical`` leaves the text's law exactly that of the warped target:

    - ``chain``: speculative sampling (Leviathan et al. 2023; Chen et al. 2023).
    - ``block``: block verification of a chain (Sun et al. 2024): never accepts less than ``chain``
      in expectation.
    - ``with_replacement``: siblings drawn independently (SpecInfer, Miao et al. 2024).
    - ``without_replacement``: siblings drawn without replacement, in this order (recursive rejection;
      Jeon et al. 2024, Sequoia, Chen et al. 2024).
    - ``target_only``: draw from the target, descend where a child holds the token (EAGLE-2).
    - ``coupled``: as ``target_only``, with noise keyed by (seed, sequence, position, token): the text
      is that of :func:`sample`, whatever the draft.
    - ``typical``: **lossy**; Medusa's typical acceptance with ``epsilon`` and ``alpha``.

    Temperature 0 is greedy verification under any rule. Without ``draft_logits`` the draft is taken
    as chosen, not drawn, and every exact rule but ``target_only`` is the coupled one ("draw from the
    target, accept what equals the draft"). A ratio test (``chain``, ``block``, ``with_replacement``,
    ``without_replacement``) is exact only if the draft's tokens were drawn from the warped
    ``draft_logits``, with randomness that no earlier round has shown: key a draft's draws by the
    position of the round's root. Which tokens to draft must not depend on the tokens' own draws.

    Only rows on the walk are read, each once. The result depends on nothing but the arguments:
    not on the batch, the order of sequences, threads or the instruction set.

    Args:
        draft_tokens: int64 ``[N]``, all sequences' trees one after the other.
        draft_parents: int32 ``[N]``, index within the sequence's tree, -1 for a child of the root.
            Parents come first; siblings in the order in which the draft drew them.
        offsets: int32 ``[B + 1]``, where each tree begins.
        target_logits: ``[N + B, V]`` float32, bfloat16 or float16, raw; per sequence one row at the
            root, then one after each draft token.
        draft_logits: the same rows of the draft, raw. Its vocabulary may be smaller or larger.
        rule: see above.
        warp: for the target, one or one a sequence.
        draft_warp: for the draft, likewise: the warp that it drew with.
        seed: 0 to 2**64 - 1.
        sequences: int64 ``[B]``, which random sequence each is (default: 0, 1, ...).
        positions: int64 ``[B]``, logical position of the token sampled at each root; depth d samples
            position + d. Needed unless every warp is greedy.
        history: for penalties: per sequence its (prompt ids, output ids) up to and with the root.
        epsilon: see ``typical``.
        alpha: see ``typical``.
        reads: counts what is read of the logits; on the CPU only.

    Raises:
        ShapeError: a tensor has the wrong shape, dtype, stride or device.
        ArgumentError: a value lies outside of its range.
        LogitsError: a row that was read holds NaN, +inf or nothing finite.
    """
    if cuda.is_on_device(target_logits):
        if reads is not None:
            raise ArgumentError("reads is given, expected None for logits on a device: nothing counts there")
        outputs, paths = cuda.verify(
            draft_tokens,
            draft_parents,
            offsets,
            target_logits,
            draft_logits,
            rule=rule,
            warp=warp,
            draft_warp=draft_warp,
            seed=_seed(seed),
            sequences=sequences,
            positions=positions,
            history=history,
            epsilon=epsilon,
            alpha=alpha,
        )
        verified = _Read(outputs.accepted, outputs.num_accepted, outputs.next_token)
        verified._paths = paths
        return verified
    depth = _native.tree_depth(draft_parents, offsets)
    batch = offsets.shape[0] - 1
    out = Verified(
        torch.empty((batch, depth), dtype=torch.int32, device="cpu"),
        torch.empty(batch, dtype=torch.int32, device="cpu"),
        torch.empty(batch, dtype=torch.int64, device="cpu"),
    )
    _native.verify(
        draft_tokens,
        draft_parents,
        offsets,
        target_logits,
        draft_logits,
        rule,
        epsilon,
        alpha,
        _handles(warp),
        _handles(draft_warp),
        _seed(seed),
        sequences,
        positions,
        None if history is None else [(_ids(prompt), _ids(output)) for prompt, output in history],
        *out,
        None if reads is None else reads._sums,
    )
    return out


def sample(
    logits: Tensor,
    warp: Warp | Sequence[Warp] = _PLAIN,
    *,
    seed: int = 0,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    history: History | None = None,
) -> Tensor:
    """Draws one token a row: int64 ``[B]`` from raw logits ``[B, V]``.

    The noise is keyed by (seed, sequence, position, token), so the draw is the one that
    :func:`verify` with rule ``coupled`` makes at this position.

    Args:
        logits: raw, float32, bfloat16 or float16, on any device.
        warp: one, or one a row.
        seed: 0 to 2**64 - 1.
        sequences: int64 ``[B]``, which random sequence each row is (default: 0, 1, ...).
        positions: int64 ``[B]``, logical position of the token that each row samples. Needed unless every
            warp is greedy.
        history: for penalties: per row its (prompt ids, output ids) so far.

    Raises:
        ShapeError, ArgumentError, LogitsError: as :func:`verify`.
    """
    return _drawn(logits, warp, seed, sequences, positions, history).next_token


def sample_ids(
    logits: Tensor,
    warp: Warp | Sequence[Warp] = _PLAIN,
    *,
    seed: int = 0,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    history: History | None = None,
) -> list[int]:
    """As :func:`hornbeam.ops.sample`, arguments and all, but the tokens as a list: of logits on a device they
    are read once. ``sequences`` and ``positions`` are int64 ``[B]``."""
    return [token for _, token in _drawn(logits, warp, seed, sequences, positions, history).paths()]


def probabilities(
    logits: Tensor, warp: Warp | Sequence[Warp] = _PLAIN, *, history: History | None = None
) -> Tensor:
    """The law that :func:`sample` and :func:`verify` draw from, float64 ``[B, V]`` on the CPU: exactly the
    weights that they read, over their sum.

    Args:
        logits: raw, float32, bfloat16 or float16, ``[B, V]`` on the CPU.
        warp: one, or one a row; a greedy one gives all to its token.
        history: for penalties: per row its (prompt ids, output ids) so far.

    Raises:
        ShapeError, ArgumentError, LogitsError: as :func:`verify`.
    """
    if logits.dim() != 2:
        raise ShapeError(f"logits has shape {list(logits.shape)}, expected [rows, vocabulary]")
    weights = torch.empty(logits.shape, dtype=torch.float32, device="cpu")
    totals = torch.empty(logits.shape[0], dtype=torch.int64, device="cpu")
    seen = None if history is None else [(_ids(a).tolist(), _ids(b).tolist()) for a, b in history]
    _native.law_weights(logits, _handles(warp), seen, weights, totals)
    return weights.double() / totals[:, None]


def _drawn(
    logits: Tensor,
    warp: Warp | Sequence[Warp],
    seed: int,
    sequences: Tensor | None,
    positions: Tensor | None,
    history: History | None,
) -> Verified:
    """A verification without drafts."""
    if len(logits.shape) == 0:
        raise ShapeError("logits has no dimensions, expected [rows, vocabulary]")
    empty = torch.empty(0, dtype=torch.int32, device="cpu")
    return verify(
        empty.to(torch.int64),
        empty,
        torch.zeros(logits.shape[0] + 1, dtype=torch.int32, device="cpu"),
        logits,
        rule="coupled",
        warp=warp,
        seed=seed,
        sequences=sequences,
        positions=positions,
        history=history,
    )
