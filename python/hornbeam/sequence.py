"""One prompt on its way: its branch, what it emitted, why it ended, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from hornbeam.text import TextStream, continuation
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from hornbeam.lm import LM
    from hornbeam.trace import Trace
    from hornbeam.tree import Branch, PrefixTree

__all__ = ["SHARED_PREFIX", "Generation", "Options", "Piece", "Sequence", "Source", "Stats"]

#: A prompt waits for one that goes first if that saves it so many rows.
SHARED_PREFIX = 16

Finish = Literal["eos", "length", "stop", "context", "criterion", "interrupted"]
Source = Literal["draft", "plain"]


class Piece(NamedTuple):
    """One emitted token, where it came from, and the text that became certain with it."""

    token: int
    source: Source
    text: str


@dataclass
class Stats:
    """What a generation cost. ``forward_passes``, ``rows``, ``drafted``, ``accepted`` and ``emitted``
    count this sequence's share of the decoding; ``seconds`` by phase and ``peak_kv_bytes`` belong to the
    whole call. With a recipe of :mod:`hornbeam.keep`: ``reductions`` counts how often keys were let go;
    ``kv_bytes_before`` are the bytes of pages before the last time, ``kv_bytes`` those after it, and
    ``kept_share`` is the share of all keys seen that it kept."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    forward_passes: int = 0
    rows: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_kv_bytes: int = 0
    reductions: int = 0
    kv_bytes_before: int = 0
    kv_bytes: int = 0
    kept_share: float = 1.0

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
    trace: Trace | None = None
    keep: Any = None

    @classmethod
    def greedy(cls, max_new_tokens: int, keep: Any = None) -> Options:
        """Plain greedy decoding: no draft, no stop."""
        return cls(
            max_new_tokens=max_new_tokens,
            warp=Warp(temperature=0.0),
            seed=0,
            rule="coupled",
            draft=None,
            length=None,
            stop=(),
            stream=None,
            keep=keep,
        )


class Sequence:
    """One prompt on its way."""

    def __init__(self, lm: LM, index: int, number: int, prompt: list[int], options: Options) -> None:
        self.lm = lm
        self.options = options
        self.index = index
        self.number = number  # the `sequence` of the random numbers
        self.prompt = prompt
        self.output: list[int] = []
        self._branch: Branch | None = None
        self.pending = -1  # emitted, but not yet a row
        self.is_read = False  # whether the branch holds all that is certain, but for the pending token
        self.num_matched = 0  # tokens that the tree held when the branch was opened
        self.draft_room = 1 << 30  # tokens that a draft may have
        # Why the sequence ends, and the length of the output that it ends with.
        self._ending: tuple[Finish, int] | None = None
        self.stats = Stats(prompt_tokens=len(prompt))
        self.text = None
        if lm.tokenizer is not None and (options.stop or options.stream):
            self.text = TextStream(lm.tokenizer, options.stop, prompt)
        # The last token emitted needs no row, hence one more than there are positions left.
        self.room = min(options.max_new_tokens, lm.max_positions - len(prompt) + 1)
        self.limit: Finish = "length" if self.room == options.max_new_tokens else "context"

    @property
    def position(self) -> int:
        """Logical position of the token to be sampled next."""
        return len(self.prompt) + len(self.output)

    @property
    def is_ending(self) -> bool:
        """Whether the tokens that were cut last, emitted or not, are the sequence's last."""
        return self._ending is not None

    @property
    def finish(self) -> Finish | None:
        """Why the sequence has ended. An end takes effect together with the output that it belongs to, so
        that an interrupt in between leaves neither."""
        if self._ending is None or len(self.output) != self._ending[1]:
            return None
        return self._ending[0]

    def interrupt(self) -> None:
        """Ends the sequence with what there is, unless it has ended."""
        if self.finish is None:
            self._ending = ("interrupted", len(self.output))

    @property
    def committed(self) -> list[int]:
        """The tokens that the branch holds before the next step of decoding: all but the pending one."""
        return [*self.prompt, *self.output[:-1]]

    @property
    def branch(self) -> Branch:
        """The committed tokens; there from the first prefill step to the end of the sequence."""
        assert self._branch is not None, "the sequence has no branch yet, or no more"
        return self._branch

    def open(self, tree: PrefixTree, reusable: int) -> None:
        """Takes up what the tree holds of the prompt, ``reusable`` tokens or all but the last at most."""
        if self._branch is None:
            text = self.committed
            self._branch = tree.match(text, max_tokens=min(reusable, len(text) - 1))
            self.num_matched = self._branch.length
            if not self.output:
                self.stats.reused_tokens = self.num_matched

    @property
    def is_closed(self) -> bool:
        """Whether the sequence holds no branch: not yet, or no more."""
        return self._branch is None

    def record_reduction(self, pages_before: int, keys: int) -> None:
        """Notes that the branch was reduced to so many keys over all planes."""
        tree = self.lm.tree
        self.stats.reductions += 1
        self.stats.kv_bytes_before = pages_before * (tree.slab_bytes // tree.num_planes)
        self.stats.kv_bytes = int(self.branch.bytes_by_head().sum())
        self.stats.kept_share = keys / (self.branch.length * tree.num_planes)
        self.lm.freed_bytes += max(self.stats.kv_bytes_before - self.stats.kv_bytes, 0)

    def close(self) -> None:
        """Releases the branch, if there is one."""
        if self._branch is not None:
            self._branch.drop()
        self._branch = None
        self.is_read = False

    def cut(self, fresh: list[tuple[int, Source]]) -> list[Piece]:
        """The tokens up to the first that ends the sequence, with the text that each makes certain. The end
        takes effect when they are emitted."""
        pieces = []
        stream = self.text
        for count, (token, source) in enumerate(fresh, 1):
            finish: Finish | None = None
            if token in self.options.eos_token_ids:
                finish = "eos"
            elif len(self.output) + count >= self.room:
                finish = self.limit
            if stream is not None and stream.push(token):
                finish = "stop"
            if self.options.criterion is not None and finish is None:
                output = self.output + [seen for seen, _ in fresh[:count]]
                if self.options.criterion(self.prompt, output):
                    finish = "criterion"
            text = ""
            if stream is not None:
                if finish is not None:
                    stream.finish()
                text = stream.take(everything=finish is not None)
            pieces.append(Piece(token, source, text))
            if finish is not None:
                self._ending = (finish, len(self.output) + count)
                break
        return pieces

    def emit(self, pieces: list[Piece]) -> None:
        """Records tokens that are certain and shows them, one call a run of the same source."""
        # One call that no interrupt divides.
        self.output.extend([piece.token for piece in pieces])
        self.stats.emitted = len(self.output)
        if self.finish is not None:
            self.close()
        if self.options.stream is None:
            return
        extra = {"index": self.index} if self.options.stream_index else {}
        for source, run in groupby(pieces, key=lambda piece: piece.source):
            shown = list(run)
            text = "".join(piece.text for piece in shown)
            self.options.stream(text, [piece.token for piece in shown], source, **extra)

    def generation(self, seconds: dict[str, float]) -> Generation:
        """The answer, once the sequence is finished or given up."""
        text = ""
        if self.text is not None and self.finish != "interrupted":
            text = self.text.text
        elif self.lm.tokenizer is not None:
            text = continuation(self.lm.tokenizer, self.prompt, self.output)
        self.stats.seconds = dict(seconds)
        self.stats.peak_kv_bytes = self.lm.tree.peak_bytes
        return Generation(text, self.output, self.finish or "length", self.stats)
