"""The decoding loop: prefill, draft, forward, verify, commit, for a ragged batch of sequences.

One call of :meth:`hornbeam.LM.generate` is one :class:`Decoding`. Every step is a transaction on the
prefix tree: an exception anywhere (the model, a callback, Ctrl-C) rolls the open step back and
releases the call's branches, so the tree afterwards holds what was committed and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from hornbeam import ops
from hornbeam.text import TextStream, decode
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from hornbeam.lm import LM
    from hornbeam.tree import Branch, PrefixTree, Step

__all__ = ["Decoding", "Generation", "Options", "Stats"]

# Rows of one prefill step that several short prompts share.
SHARED_PREFILL_ROWS = 1024

Finish = Literal["eos", "length", "stop", "context", "criterion", "interrupted"]
Source = Literal["draft", "plain"]
Phase = Literal["prefill", "draft", "forward", "verify", "commit"]


class _Piece(NamedTuple):
    """One emitted token, where it came from, and the text that became certain with it."""

    token: int
    source: Source
    text: str


@dataclass
class Stats:
    """What a generation cost. ``forward_passes``, ``rows``, ``drafted``, ``accepted`` and ``emitted``
    count this sequence's share of the decoding; ``seconds`` by phase and ``peak_kv_bytes`` belong to the
    whole call."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    forward_passes: int = 0
    rows: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_kv_bytes: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens of this sequence over the seconds of the decoding, prefill left out."""
        decoding = sum(spent for phase, spent in self.seconds.items() if phase != "prefill")
        return self.emitted / decoding if decoding else 0.0


@dataclass
class Generation:
    """The answer to one prompt. ``token_ids`` includes the end-of-sequence token where one was emitted;
    ``text`` leaves special tokens out and ends before a stop string; it is empty without a tokenizer."""

    text: str
    token_ids: list[int]
    finish_reason: Finish
    stats: Stats


@dataclass(frozen=True)
class Options:
    """The arguments of one call, checked."""

    max_new_tokens: int
    warp: Warp
    seed: int
    rule: str
    draft: Any
    length: Any
    stop: tuple[str, ...]
    stream: Callable[..., Any] | None
    processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    criterion: Callable[[list[int], list[int]], bool] | None = None
    eos_token_ids: frozenset[int] = frozenset()
    stream_index: bool = False


class _Sequence:
    """One prompt on its way."""

    def __init__(self, lm: LM, index: int, number: int, prompt: list[int], options: Options) -> None:
        self.index = index
        self.number = number  # the `sequence` of the random numbers
        self.prompt = prompt
        self.output: list[int] = []
        self._branch: Branch | None = None
        self.pending = -1  # emitted, but not yet a row
        self.drafter: Any = None if options.draft is None else options.draft.start(prompt)
        self.finish: Finish | None = None
        self.stats = Stats(prompt_tokens=len(prompt))
        self.text = None
        if lm.tokenizer is not None and (options.stop or options.stream):
            self.text = TextStream(lm.tokenizer, options.stop)
        # The last token emitted needs no row, hence one more than there are positions left.
        self.room = min(options.max_new_tokens, lm.max_positions - len(prompt) + 1)
        self.limit: Finish = "length" if self.room == options.max_new_tokens else "context"

    @property
    def position(self) -> int:
        """Logical position of the token to be sampled next."""
        return len(self.prompt) + len(self.output)

    @property
    def branch(self) -> Branch:
        """The committed tokens; there from the first prefill step to the end of the sequence."""
        assert self._branch is not None, "the sequence has no branch yet, or no more"
        return self._branch

    def open(self, tree: PrefixTree) -> None:
        """Takes up what the tree holds of the prompt, all but its last token at most."""
        if self._branch is None:
            self._branch = tree.match(self.prompt, max_tokens=len(self.prompt) - 1)
            self.stats.reused_tokens = self._branch.length

    def close(self) -> None:
        if self._branch is not None:
            self._branch.release()
        self._branch = None


class Decoding:
    """Decodes a batch of prompts with one set of options."""

    def __init__(self, lm: LM, prompts: Sequence[list[int]], options: Options) -> None:
        self.lm = lm
        self.options = options
        self.seconds: defaultdict[str, float] = defaultdict(float)
        # Equal prompts of one call get different random numbers; a prompt alone and the same prompt
        # in a batch get the same.
        seen: Counter[tuple[int, ...]] = Counter()
        self.sequences = []
        for index, prompt in enumerate(prompts):
            key = tuple(prompt)
            self.sequences.append(_Sequence(lm, index, seen[key], prompt, options))
            seen[key] += 1
        self.stop_rule = None if options.draft is None else options.length.start(lm.cost_curve)

    def run(self) -> list[Generation]:
        with ExitStack() as stack:
            for sequence in self.sequences:
                stack.callback(sequence.close)
            try:
                if self.options.max_new_tokens > 0:
                    self._prefill()
                    while active := [s for s in self.sequences if s.finish is None]:
                        self._step(active)
            except KeyboardInterrupt:
                for sequence in self.sequences:
                    sequence.finish = sequence.finish or "interrupted"
        return [self._generation(sequence) for sequence in self.sequences]

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - begin

    # -- prefill ---------------------------------------------------------------------------------

    def _prefill(self) -> None:
        """Computes what the tree does not hold of each prompt, and samples each first token."""
        waiting = list(self.sequences)
        while waiting:
            with self._phase("prefill"):
                batch, logits = self._prefill_step(waiting)
            if batch:
                tokens = self._sample(batch, logits)
                for sequence, token in zip(batch, tokens, strict=True):
                    emitted = self._cut(sequence, [(token, "plain")])
                    sequence.pending = token
                    self._emit(sequence, emitted)
                waiting = [s for s in waiting if s not in batch]

    def _prefill_step(self, waiting: list[_Sequence]) -> tuple[list[_Sequence], torch.Tensor]:
        """One forward pass over the next rows of the first prompts; returns those that it finished,
        with the logits of their last rows."""
        requests: list[tuple[Branch, list[int], None]] = []
        taken: list[_Sequence] = []
        room = SHARED_PREFILL_ROWS
        for sequence in waiting:
            sequence.open(self.lm.tree)
            rest = sequence.prompt[sequence.branch.length :]
            # A long prompt takes a step of its own: torch's dense attention serves it best.
            alone = len(rest) >= self.lm.dense_rows
            if requests and (alone or len(rest) > room):
                if sequence.branch.length == sequence.stats.reused_tokens:
                    sequence.close()  # matched again when its turn comes, against a fuller tree
                break
            requests.append((sequence.branch, rest[: self.lm.prefill_rows if alone else room], None))
            taken.append(sequence)
            room -= len(requests[-1][1])
            if alone or room <= 0:
                break
        done = [s for s, r in zip(taken, requests, strict=True) if _remaining(s) == len(r[1])]
        with self.lm.tree.step(requests) as step:
            rows = [int(step.rows[i][-1]) for i, s in enumerate(taken) if s in done]
            logits = self.lm.runner.forward(self.lm.tree, step, logits_rows=rows or [0]).logits
            step.commit([range(len(tokens)) for _, tokens, _ in requests])
        return done, logits

    def _sample(self, batch: list[_Sequence], logits: torch.Tensor) -> list[int]:
        with self._phase("verify"):
            if self.options.processor is not None:
                logits = torch.cat(
                    [self._process(s, [], row[None]) for s, row in zip(batch, logits, strict=True)]
                )
            return ops.sample(
                logits,
                self.options.warp,
                seed=self.options.seed,
                sequences=_integers([s.number for s in batch]),
                positions=_integers([s.position for s in batch]),
                history=self._history(batch),
            ).tolist()

    # -- decoding --------------------------------------------------------------------------------

    def _step(self, active: list[_Sequence]) -> None:
        with self._phase("draft"):
            proposals, drafts = self._draft(active)
        requests = [(s.branch, [s.pending, *tokens], None) for s, tokens in zip(active, drafts, strict=True)]
        with self.lm.tree.step(requests) as step:
            with self._phase("forward"):
                begin = time.perf_counter()
                logits = self._forward(step)
                self.lm.cost_curve.observe(step.token_ids.shape[0], time.perf_counter() - begin)
            with self._phase("verify"):
                num_accepted, next_tokens = self._verify(active, drafts, logits)
            kept = []
            for sequence, tokens, accepted, last in zip(
                active, drafts, num_accepted, next_tokens, strict=True
            ):
                sequence.stats.forward_passes += 1
                sequence.stats.rows += 1 + len(tokens)
                sequence.stats.drafted += len(tokens)
                fresh: list[tuple[int, Source]] = [
                    *((token, "draft") for token in tokens[:accepted]),
                    (last, "plain"),
                ]
                emitted = self._cut(sequence, fresh)
                sequence.stats.accepted += sum(piece.source == "draft" for piece in emitted)
                kept.append(emitted)
            with self._phase("commit"):
                step.commit([range(len(emitted)) for emitted in kept])
        if self.stop_rule is not None:
            self.stop_rule.observe(proposals, [len(tokens) for tokens in drafts], num_accepted, next_tokens)
        for sequence, emitted in zip(active, kept, strict=True):
            if sequence.drafter is not None:
                sequence.drafter.extend([sequence.pending, *(piece.token for piece in emitted[:-1])])
            sequence.pending = emitted[-1].token
        for sequence, emitted in zip(active, kept, strict=True):
            self._emit(sequence, emitted)

    def _draft(self, active: list[_Sequence]) -> tuple[list[Any], list[list[int]]]:
        """The proposals, and the tokens of each that are worth a row."""
        if self.stop_rule is None:
            return [], [[] for _ in active]
        proposals = [
            s.drafter.propose(s.pending, min(s.room - len(s.output) - 1, self.lm.max_positions - s.position))
            for s in active
        ]
        lengths = self.stop_rule.choose(proposals)
        return proposals, [list(p.tokens[:length]) for p, length in zip(proposals, lengths, strict=True)]

    def _forward(self, step: Step) -> torch.Tensor:
        order = torch.cat([torch.as_tensor(rows) for rows in step.rows])
        in_order = bool((order == torch.arange(order.shape[0])).all())
        return self.lm.runner.forward(self.lm.tree, step, logits_rows=None if in_order else order).logits

    def _verify(
        self, active: list[_Sequence], drafts: list[list[int]], logits: torch.Tensor
    ) -> tuple[list[int], list[int]]:
        if self.options.processor is not None:
            parts = torch.split(logits, [1 + len(tokens) for tokens in drafts])
            logits = torch.cat(
                [
                    self._process(s, tokens, part)
                    for s, tokens, part in zip(active, drafts, parts, strict=True)
                ]
            )
        offsets: list[int] = [0]
        parents: list[int] = []
        for tokens in drafts:
            offsets.append(offsets[-1] + len(tokens))
            parents.extend(range(-1, len(tokens) - 1))
        verified = ops.verify(
            _integers([token for tokens in drafts for token in tokens]),
            torch.tensor(parents, dtype=torch.int32),
            torch.tensor(offsets, dtype=torch.int32),
            logits,
            rule=self.options.rule,
            warp=self.options.warp,
            seed=self.options.seed,
            sequences=_integers([s.number for s in active]),
            positions=_integers([s.position for s in active]),
            history=self._history(active),
        )
        return verified.num_accepted.tolist(), verified.next_token.tolist()

    def _process(self, sequence: _Sequence, tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Applies the caller's processor row by row, each with the tokens on its path."""
        assert self.options.processor is not None
        path = [*sequence.prompt, *sequence.output]
        rows = []
        for depth, row in enumerate(logits):
            seen = _integers([path + tokens[:depth]]).to(logits.device)
            rows.append(self.options.processor(seen, row[None].float()))
        return torch.cat(rows)

    def _history(self, active: list[_Sequence]) -> list[tuple[list[int], list[int]]] | None:
        if not self.options.warp.has_penalties:
            return None
        return [(s.prompt, s.output) for s in active]

    # -- emission --------------------------------------------------------------------------------

    def _cut(self, sequence: _Sequence, fresh: list[tuple[int, Source]]) -> list[_Piece]:
        """The tokens up to the first that ends the sequence, with the text that each makes certain;
        sets ``finish`` there."""
        pieces = []
        stream = sequence.text
        for count, (token, source) in enumerate(fresh, 1):
            if token in self.options.eos_token_ids:
                sequence.finish = "eos"
            elif len(sequence.output) + count >= sequence.room:
                sequence.finish = sequence.limit
            if stream is not None and stream.push(token):
                sequence.finish = "stop"
            if self.options.criterion is not None and sequence.finish is None:
                output = sequence.output + [seen for seen, _ in fresh[:count]]
                if self.options.criterion(sequence.prompt, output):
                    sequence.finish = "criterion"
            text = ""
            if stream is not None:
                if sequence.finish is not None:
                    stream.finish()
                text = stream.take(everything=sequence.finish is not None)
            pieces.append(_Piece(token, source, text))
            if sequence.finish is not None:
                break
        return pieces

    def _emit(self, sequence: _Sequence, pieces: list[_Piece]) -> None:
        """Records tokens that are certain and shows them, one call a run of the same source."""
        sequence.output.extend(piece.token for piece in pieces)
        sequence.stats.emitted = len(sequence.output)
        if sequence.finish is not None:
            sequence.close()
        if self.options.stream is None:
            return
        extra = {"index": sequence.index} if self.options.stream_index else {}
        for source, run in groupby(pieces, key=lambda piece: piece.source):
            shown = list(run)
            text = "".join(piece.text for piece in shown)
            self.options.stream(text, [piece.token for piece in shown], source, **extra)

    def _generation(self, sequence: _Sequence) -> Generation:
        text = ""
        if sequence.text is not None and sequence.finish != "interrupted":
            text = sequence.text.text
        elif self.lm.tokenizer is not None:
            text = decode(self.lm.tokenizer, sequence.output)
        sequence.stats.seconds = dict(self.seconds)
        sequence.stats.peak_kv_bytes = self.lm.tree.peak_bytes
        return Generation(text, sequence.output, sequence.finish or "length", sequence.stats)


def _remaining(sequence: _Sequence) -> int:
    return len(sequence.prompt) - sequence.branch.length


def _integers(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
