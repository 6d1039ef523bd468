"""Decode steps over fixed buffers: forward, verification and commit as one sequence of launches.

On a GPU a small step costs more in launches than in work. Here everything that a step reads lies in
device buffers of fixed size that the next step overwrites: tokens, positions, the plan, the draft
trees, the laws. So the whole sequence is captured once as a CUDA graph and replayed. Steps are padded
up to a *bucket* of rows and of sequences; padded rows see nothing, are written nowhere, and belong to
sequences that nobody asks about.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.cuda.device import index_of
from hornbeam.cuda.outputs import Outputs
from hornbeam.cuda.plans import DevicePlan, pack
from hornbeam.cuda.warps import SIZES, adjusts, pack_laws
from hornbeam.model.runner import Output
from hornbeam.speculation.step_draft import Verdict

if TYPE_CHECKING:
    from hornbeam.cache.tree import Step
    from hornbeam.engine.host import Host
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request
    from hornbeam.speculation.step_draft import StepDraft

__all__ = ["CAPTURED_ROWS", "StepGraphs", "bucket"]

#: Rows of the largest step that is captured; larger ones run eagerly, and are slow for other reasons.
CAPTURED_ROWS = 128


def bucket(count: int) -> int:
    """The least power of two from ``count`` on."""
    return 1 << max(0, count - 1).bit_length()


class StepGraphs:
    """The captured steps of an LM, by (rows, sequences)."""

    def __init__(self, engine: Host) -> None:
        self.engine = engine
        self._steps: dict[tuple[int, int], _PaddedStep] = {}
        self.plan_buffers = _PlanBuffers()
        self.pool: Any = None

    def __len__(self) -> int:
        """How many buckets were met."""
        return len(self._steps)

    @staticmethod
    def fits(options: Options, drafts: Seq[StepDraft]) -> bool:
        """Whether a step can run padded: it is verified by sampling, from the model's own logits."""
        is_chosen = options.warp.is_greedy or all(draft.logits is None for draft in drafts)
        return (
            (options.rule.shares_noise or (bool(options.rule.compares) and is_chosen))
            and options.processor is None
            and options.lockstep is None
            and options.beams is None
            and not adjusts(options.warp)
            and sum(1 + len(d.tokens) for d in drafts) + bucket(len(drafts)) <= CAPTURED_ROWS
        )

    def run(
        self, step: Step, active: Seq[Request], drafts: Seq[StepDraft], options: Options
    ) -> tuple[Output, list[Verdict]]:
        """Runs an open step up to its commit: the logits of its rows in the order of the requests, and
        its verdicts. The rows are moved; ``step.commit`` has to
        know that (``is_moved``)."""
        sequences = bucket(len(active))
        rows = bucket(sum(len(draft.tokens) for draft in drafts) + sequences)
        padded = self._steps.get((rows, sequences))
        if padded is None:
            padded = self._steps[rows, sequences] = _PaddedStep(self, rows, sequences)
        output, paths = padded.run(step, active, drafts, options)
        return output, [Verdict([row - 1 for row in kept], token) for kept, token in paths]


class _PlanBuffers:
    """Where every step's plan goes. Grows by doubling; ``generation`` counts how often it did."""

    def __init__(self) -> None:
        self.words = torch.empty(0, dtype=torch.int32)
        self.workspace = torch.empty(0, dtype=torch.float32)
        self.generation = 0

    def fill(self, engine: Host, step: Step, num_rows: int) -> DevicePlan:
        """The step's plan, padded, in the buffers."""
        shape, chunks = engine.runner.shape, engine.tree.chunks
        heads = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads}
        packed = pack(step.plan, chunks, shape.num_heads, shape.num_kv_heads, num_rows)
        words = len(packed.words) // 4
        floats = packed.num_partial_rows * shape.num_heads * (shape.head_dim + 2)
        if words > len(self.words) or floats > len(self.workspace) or self.generation == 0:
            device = chunks[0].device
            self.words = torch.empty(bucket(2 * words), dtype=torch.int32, device=device)
            self.workspace = torch.empty(bucket(2 * floats), dtype=torch.float32, device=device)
            self.generation += 1
        buffers = {"buffer": self.words, "workspace": self.workspace}
        plan = DevicePlan(step.plan, chunks, **heads, num_rows=num_rows, **buffers)  # type: ignore[arg-type]
        # Kernels stride over what the words say; a captured launch has to have one size for all plans.
        facts = cuda.lane().device(index_of(chunks[0].device))
        plan.extent = (-(-8 * facts["multiprocessors"] // shape.num_kv_heads), num_rows)
        return plan


class _PaddedStep:
    """One bucket: its buffers, and the graph once it was captured."""

    def __init__(self, owner: StepGraphs, rows: int, sequences: int) -> None:
        self.owner = owner
        self.rows, self.sequences = rows, sequences
        device = owner.engine.runner.shape.device
        sizes = {
            "token_ids": (torch.int64, (rows,)),
            "positions": (torch.int64, (rows,)),
            "logits_rows": (torch.int64, (rows,)),
            "draft_tokens": (torch.int64, (rows,)),
            "numbers": (torch.int64, (sequences,)),
            "roots": (torch.int64, (sequences,)),
            "laws": (torch.uint8, (sequences, SIZES["law"])),
            "seeds": (torch.int32, (2,)),
            "parents": (torch.int32, (rows,)),
            "order": (torch.int32, (rows,)),
            "offsets": (torch.int32, (sequences + 1,)),
        }
        size = sum(-(-_bytes(*entry) // 16) * 16 for entry in sizes.values())
        self.staging = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self.inputs = torch.zeros(size, dtype=torch.uint8, device=device)
        self.host, self.there = (_views(buffer, sizes) for buffer in (self.staging, self.inputs))
        self.sampled, self.faults = torch.zeros((2, rows), dtype=torch.int32, device=device).unbind()
        self.outputs = Outputs(sequences, rows, device)
        self.graph: Any = None
        self.logits: Tensor | None = None
        self.generation = -1

    def run(
        self, step: Step, active: Seq[Request], drafts: Seq[StepDraft], options: Options
    ) -> tuple[Output, list[tuple[list[int], int]]]:
        plan = self.owner.plan_buffers.fill(self.owner.engine, step, self.rows)
        self._fill(step, active, drafts, options)
        self.inputs.copy_(self.staging, non_blocking=True)
        if not self.inputs.is_cuda:
            self.logits = self._launch(plan)
        else:
            self._replay(plan)
        paths = self.outputs.read(len(active))
        assert self.logits is not None
        return Output(self.logits[: step.num_rows], None), paths

    def _replay(self, plan: DevicePlan) -> None:
        """Runs the step: eagerly the first time, which warms everything up, then from its graph."""
        generation = self.owner.plan_buffers.generation
        if self.generation != generation:
            # A launch of the graph would read the buffers of before.
            self.generation, self.graph = generation, None
            cuda.lane().prepare(index_of(self.inputs.device))
            self.logits = self._launch(plan)
            return
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            if self.owner.pool is None:
                self.owner.pool = torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=self.owner.pool):
                self.logits = self._launch(plan)
            self.graph = graph
        self.graph.replay()

    def _fill(self, step: Step, active: Seq[Request], drafts: Seq[StepDraft], options: Options) -> None:
        """The step's numbers to the staging buffer. Padded rows are roots of padded sequences."""
        host, real = self.host, step.num_rows
        order = torch.cat([torch.as_tensor(own) for own in step.rows])
        tokens = [token for draft in drafts for token in draft.tokens]
        lengths = torch.tensor([len(draft.tokens) for draft in drafts])
        for name, values in (
            ("token_ids", step.host_token_ids),
            ("positions", step.host_positions),
            ("logits_rows", order),
            ("order", order),
            ("draft_tokens", torch.tensor(tokens, dtype=torch.int64)),
            ("parents", torch.tensor([p for draft in drafts for p in draft.parents], dtype=torch.int32)),
            ("numbers", torch.tensor([s.number for s in active])),
            ("roots", torch.tensor([s.position for s in active])),
        ):
            host[name].zero_()
            host[name][: len(values)] = values
        for name in ("logits_rows", "order"):
            host[name][real:] = torch.arange(real, self.rows)
        host["offsets"].fill_(len(tokens))
        host["offsets"][0] = 0
        host["offsets"][1 : len(active) + 1] = lengths.cumsum(0)
        host["laws"].copy_(pack_laws([options.warp]).expand(self.sequences, -1))
        words = bytearray(active[0].seed.to_bytes(8, "little"))
        host["seeds"].copy_(torch.frombuffer(words, dtype=torch.int32))

    def _launch(self, plan: DevicePlan) -> Tensor:
        """Forward, verification, commit: no transfer, no wait."""
        driver, there, out = cuda.lane(), self.there, self.outputs
        engine = self.owner.engine
        logits = engine.runner.logits_over(
            engine.tree, plan, there["token_ids"], there["positions"], there["logits_rows"]
        )
        tree = (there["parents"], there["offsets"])
        law = (0.0, None, None, None)
        streams = (there["numbers"], there["roots"], law, there["laws"], 0)
        _native.cuda_sample(driver, logits, tree, *streams, self.sampled, self.faults, there["seeds"])
        _native.cuda_follow(
            driver,
            there["draft_tokens"],
            *tree,
            self.sampled,
            self.faults,
            out.accepted,
            out.num_accepted,
            out.next_token,
            out.fault_rows,
            captured=True,
        )
        verdict = (out.accepted, out.num_accepted)
        _native.cuda_commit_rows(driver, plan.words, there["order"], tree[1], *verdict, engine.tree.chunks[0])
        return logits


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    return size


def _views(buffer: Tensor, sizes: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, Tensor]:
    """The parts of a buffer, each on a multiple of 16 bytes."""
    views, begin = {}, 0
    for name, (dtype, shape) in sizes.items():
        end = begin + _bytes(dtype, shape)
        views[name] = buffer[begin:end].view(dtype).view(shape)
        begin = -(-end // 16) * 16
    return views
