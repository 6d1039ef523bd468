"""A model, its prefix tree, what was measured of them, and the locks around them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypedDict, TypeVar

import torch

from hornbeam import cuda, speculation
from hornbeam.cache.tree import PrefixTree
from hornbeam.engine.ambient import Ambient, is_default_device_cpu, tensors_on_the_cpu
from hornbeam.engine.graphs import StepGraphs
from hornbeam.engine.measuring import measure_costs, measure_kernels, opened_profile
from hornbeam.errors import ArgumentError, StateError
from hornbeam.integers import byte_size, whole_number
from hornbeam.interrupts import end_frames, modes_of_torch, restore_modes
from hornbeam.machine.kernels import Kernels
from hornbeam.machine.profile import Profile
from hornbeam.memory import default_kv_bytes
from hornbeam.model.attention import DENSE_ROWS
from hornbeam.model.runner import Output, Runner

__all__ = ["Host", "HostKeywords"]

_T = TypeVar("_T")


class HostKeywords(TypedDict, total=False):
    """The keywords of :class:`hornbeam.LM`, which says what they mean, of :class:`hornbeam.Engine`, and of
    :class:`Host`, which has their defaults."""

    kv_dtype: torch.dtype | None
    max_kv_bytes: int | str | None
    page_tokens: int
    prefill_rows: int
    cuda_graphs: bool
    profile: Profile | str | os.PathLike[str] | None
    batch_invariant: bool


class Host:
    """What requests stand on; :class:`hornbeam.Engine` is one. The arguments are those of
    :class:`hornbeam.LM`."""

    @tensors_on_the_cpu()
    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        kv_dtype: torch.dtype | None = None,
        max_kv_bytes: int | str | None = None,
        page_tokens: int = 16,
        prefill_rows: int = 8192,
        cuda_graphs: bool = False,
        profile: Profile | str | os.PathLike[str] | None = None,
        batch_invariant: bool = False,
    ) -> None:
        prefill_rows = whole_number(prefill_rows, "prefill_rows", 1)
        page_tokens = whole_number(page_tokens, "page_tokens", 1)
        if not isinstance(batch_invariant, bool):
            raise ArgumentError(f"batch_invariant is {batch_invariant!r}, expected True or False")
        self.runner = Runner(model, batch_invariant=batch_invariant)
        #: The model, out of wrappers such as ``torch.compile``'s and peft's.
        self.model = self.runner.model
        self.tokenizer = tokenizer
        cuda.require(self.runner.shape.device)
        self.prefill_rows = prefill_rows
        self.dense_rows = DENSE_ROWS
        self.cost_curve = speculation.CostCurve()
        self._has_stepped = False
        #: What was measured of the model on this machine; None where nothing is to be measured.
        self.profile: Profile | None = None
        #: Those that a request keeps to its end if it begins now; None for those that were measured nowhere.
        self.kernels: Kernels | None = None
        self._given_profile = profile
        #: What unions of drafts have learned, by their settings.
        self.union_memories: dict[str, speculation.UnionMemory] = {}
        #: What draft sources remember of earlier texts, by source or file.
        self.recalled: dict[Any, Any] = {}
        #: Bytes of pages that recipes of :mod:`hornbeam.keep` have let go so far.
        self.freed_bytes = 0
        self._kv_dtype = kv_dtype
        self._max_kv_bytes = None if max_kv_bytes is None else byte_size(max_kv_bytes, "max_kv_bytes")
        self._page_tokens = page_tokens
        self._cuda_graphs = cuda_graphs
        self._lock = threading.RLock()
        self._queue: list[int] = []  # threads that wait for the lock
        self._seen_changes = self.runner.changes
        self._is_stepping = False
        self._is_dirty = False  # a step was begun and not ended
        if cuda_graphs and not cuda.runs_on(self.runner.shape.device):
            raise ArgumentError(
                f"cuda_graphs is True for a model on {self.runner.shape.device}, expected a CUDA device"
            )
        self._make_tree()
        self._open_profile()

    def _open_profile(self) -> None:
        """Takes up what was measured of the model as it is, with the threads that torch has."""
        self._threads = torch.get_num_threads()
        self.profile = opened_profile(self._given_profile, self)
        self.runner.switch.attach(self.profile)
        self.kernels = None if self.profile is None else self.profile.kernels
        self.cost_curve = speculation.CostCurve()
        for rows, seconds in () if self.profile is None else self.profile.cost:
            self.cost_curve.observe(rows, seconds)

    def take_up(self) -> None:
        """Takes up what was learned of kernels, while no request is under way."""
        if torch.get_num_threads() != self._threads:
            self._open_profile()
        if self.profile is not None:
            self.kernels = self.profile.kernels
        self.runner.switch.use(self.kernels)

    def keep_profile(self) -> None:
        """Hands on what was learned, to the next process too where that is due."""
        if self.profile is not None and self.profile.learns:
            self.profile.cost = self.cost_curve.points()
            self.profile.keep()

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
            max_bytes=self._max_kv_bytes or default_kv_bytes(shape.device),
            # What is given back after an eviction comes in parts of less than 1 % of a full context.
            # Captured steps hold the addresses of the chunks, so that a device has few.
            chunk_tokens=None if self._cuda_graphs else max(self._page_tokens, shape.max_positions // 128),
        )
        self.graphs = StepGraphs(self) if self._cuda_graphs else None
        self._tree_shape = shape

    def ambient_now(self) -> Ambient:
        """What torch is told to do from outside of a call, for a request that begins now.

        Raises:
            ArgumentError: autocast is on and passes are to be batch-invariant.
        """
        ambient = Ambient.now(self.runner.shape.device.type)
        if self.runner.batch_invariant and not ambient.is_exact:
            raise ArgumentError(
                "batch_invariant is True within torch.autocast, expected a model in the type that it is to "
                "compute in: torch's kernels would multiply"
            )
        return ambient

    @property
    def settings(self) -> HostKeywords:
        """The arguments that it was made with, its model and tokenizer aside."""
        return {
            "kv_dtype": self._kv_dtype,
            "max_kv_bytes": self._max_kv_bytes,
            "page_tokens": self._page_tokens,
            "prefill_rows": self.prefill_rows,
            "cuda_graphs": self._cuda_graphs,
            "profile": self._given_profile,
            "batch_invariant": self.runner.batch_invariant,
        }

    @property
    def facts(self) -> dict[str, str]:
        """What it is and what it holds, to be shown."""
        shape, tree = self.runner.shape, self.tree
        count = sum(parameter.numel() for parameter in self.model.parameters())
        held, most = tree.num_bytes / 1e6, (tree.max_bytes or 0) / 1e6
        return {
            "model": type(self.model).__name__,
            "parameters": f"{count / 1e6:,.1f} M parameters",
            "weights": f"{str(shape.dtype).removeprefix('torch.')} on {shape.device}",
            "context": f"context of {self.max_positions:,} tokens",
            "pages": f"{held:,.1f} of {most:,.0f} MB of pages",
        }

    # -- the model as it is now ----------------------------------------------------------------------------

    def forward(self, step: Any, **options: Any) -> Output:
        """Runs the rows of ``step``, which is open in :attr:`tree`. The only call of the model; ``options``
        are those of :meth:`hornbeam.model.runner.Runner.forward`."""
        return self.runner.forward(self.tree, step, **options)

    def notice(self) -> None:
        """Looks whether the model has changed, by the signs that cost least, and lets go of what was
        computed if it has. Called before each forward pass.

        Raises:
            UnsupportedModel: the changed model cannot be driven over pages.
        """
        self.runner.look(closely=False)
        self._take_up_changes()

    def _take_up_changes(self) -> None:
        """Lets go of what was computed if the model was seen to have changed."""
        if self._seen_changes != self.runner.changes:
            self._renew()

    def _renew(self) -> None:
        """Lets go of what the model computed before it changed. Done again, if it is interrupted."""
        changes, shape, old = self.runner.changes, self.runner.shape, self._tree_shape
        if (shape.dtype, shape.device) != (old.dtype, old.device):
            self._open_profile()
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

    def invalidate(self) -> None:
        """What :meth:`hornbeam.LM.invalidate` does."""
        self.exclusively(self.runner.renew)

    def observe_cost(self, rows: int, seconds: float) -> None:
        """Adds a step of decoding, of ``rows`` that took ``seconds``, to the cost curve. The first of all
        pays for allocations: where nothing is known beside it, it is left out."""
        if self._has_stepped or self.cost_curve.points():
            self.cost_curve.observe(rows, seconds)
        self._has_stepped = True

    # -- costs, memory ---------------------------------------------------------------------------------------

    def calibrate(
        self,
        *,
        force: bool = False,
        kernels: bool = False,
        progress: Callable[[str, float], Any] | None = None,
    ) -> None:
        """What :meth:`hornbeam.LM.calibrate` does, with ``force``, ``kernels`` and ``progress``."""

        def work() -> None:
            if kernels:
                measure_kernels(self, progress)
            if force or kernels:
                self.cost_curve = speculation.CostCurve()
            measure_costs(self)
            self.keep_profile()

        self.exclusively(work)

    def clear_cache(self) -> None:
        """What :meth:`hornbeam.LM.clear_cache` does."""

        def work() -> None:
            self.tree.clear()
            self.tree.trim()
            for memory in self.recalled.values():
                memory.forget()

        self.exclusively(work)

    # -- locks ---------------------------------------------------------------------------------------------

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """While it lasts, no step is under way."""
        with self._lock:
            self._check_between_steps()
            yield

    def _check_between_steps(self) -> None:
        if self._is_stepping:
            raise StateError("the engine is within a step, expected a call between two steps")

    def exclusively(self, work: Callable[[], _T], others: Iterable[Host] = ()) -> _T:
        """Does ``work`` between two steps, while no other thread uses this engine nor ``others``, those of
        its drafts, on the models as they are."""

        def looked() -> _T:
            if not self._is_stepping:
                self._mend()
            return work()

        return self._holding(sorted({self, *others}, key=id), looked, closely=True)

    def _engines(self) -> list[Host]:
        """Those that a step needs, in the order in which they are locked."""
        return [self]

    def _mend(self) -> None:
        """Ends what an interrupted step has left half-way."""
        self._recover()

    def _locked(self, work: Callable[[], _T]) -> _T:
        """Does ``work`` with the locks of all engines that a step needs."""
        while True:
            engines = self._engines()

            def checked(engines: list[Host] = engines) -> tuple[bool, Any]:
                if set(self._engines()) <= set(engines):
                    return True, work()
                return False, None  # a request with another draft has come in between

            is_done, answer = self._holding(engines, checked)
            if is_done:
                return answer

    def _holding(self, engines: Sequence[Host], work: Callable[[], _T], *, closely: bool = False) -> _T:
        """Locks are taken in one order, and by ``with``, so that no interrupt comes between taking and giving
        back."""
        if not engines:
            return work()
        if not is_default_device_cpu():
            with tensors_on_the_cpu():
                return self._holding(engines, work, closely=closely)
        engine = engines[0]
        is_nested = engine._lock._is_owned()  # type: ignore[attr-defined]
        with engine._lock:
            modes = modes_of_torch()
            try:
                if closely:
                    if not is_nested:
                        engine._recover()
                    engine.runner.look(closely=True)
                    engine._take_up_changes()
                return self._holding(engines[1:], work, closely=closely)
            except KeyboardInterrupt as interrupt:
                end_frames(interrupt)
                raise
            finally:
                restore_modes(modes)

    def _recover(self) -> None:
        """Ends what an interrupted step has left open; none is under way."""
        self.tree.recover(owner=self)
        for memory in self.recalled.values():
            memory.recover()
