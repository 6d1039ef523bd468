"""What a model must be like for ``batch_invariant=True``, and the threads of its passes.

Linear layers and attention run on kernels of ours, whose sums have one order for a row. What else a layer
does is torch's, row by row: it has the same bits for any number of rows where each thread's share of a tensor
is a whole number of the vectors that torch goes by, since it computes an exponential in a vector and one by
itself in two ways. So torch's operations have one thread (:func:`own_threads`), and rows of other sizes are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Linear, Module

from hornbeam import _native
from hornbeam.errors import UnsupportedModel
from hornbeam.model.attention import Attention
from hornbeam.model.rows import probe_tokens
from hornbeam.model.shape import ModelShape, Probe

__all__ = ["own_threads", "refuse_mixed_bits", "refuse_modules"]

#: Rows of the passes in which the bits of the first few are compared.
ROWS = (1, 2, 7, 64)
#: Bytes of a vector of torch's kernels, of which two are taken at a time; others go by less.
VECTOR_BYTES = {"AVX512": 64}

#: As the runner calls a model, which gives what transformers gives.
Call = Callable[[Tensor, Tensor, Attention], Any]


@contextmanager
def own_threads() -> Iterator[None]:
    """While it lasts, torch's operations on this thread have it alone, and ours as many threads as torch had.

    Raises:
        UnsupportedModel: torch has several threads, and does not lend them: before 2.10 or where they are
            not OpenMP's.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    try:  # an interrupt may come as soon as they are split
        if not _native.split_threads(threads):
            raise UnsupportedModel(
                f"batch_invariant is True and torch has {threads} threads that it does not lend (before 2.10 "
                "or where they are not OpenMP's), expected torch.set_num_threads(1)"
            )
        yield
    finally:
        _native.split_threads(None)


def refuse_modules(model: Module, shape: ModelShape) -> None:
    """Raises UnsupportedModel where a pass has products that no kernel of ours does, or rows of other sizes
    than torch's vectors allow.

    Args:
        model: copies of a causal LM's modules whose linear layers are ours.
        shape: the model's.
    """
    name = type(model).__name__
    if shape.device.type != "cpu":
        raise UnsupportedModel(f"batch_invariant is True for a model on {shape.device}, expected the CPU")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    vector = 2 * VECTOR_BYTES.get(torch.backends.cpu.get_cpu_capability(), 32)
    for path, module in model.named_modules():
        is_ours = type(module) is Linear and "forward" in module.__dict__
        if not is_ours and not isinstance(module, Embedding):
            for parameter in module.parameters(recurse=False):
                if parameter.dim() > 1:
                    raise UnsupportedModel(
                        f"{name}: batch_invariant=True has no kernel for {path} ({type(module).__name__} "
                        f"with a weight of {tuple(parameter.shape)}), expected linear layers of torch alone"
                    )
        if is_ours and module is not head:
            _refuse_size(name, f"outputs of {path}", int(module.out_features), vector, shape.dtype)
    # Sines and cosines of positions are found in float32.
    _refuse_size(name, "the numbers of a head", shape.head_dim, vector, torch.float32)
    if getattr(model.config.get_text_config(), "final_logit_softcapping", None):  # type: ignore[union-attr,operator]
        _refuse_size(name, "tokens of the vocabulary", shape.vocab_size, vector, shape.dtype)


def _refuse_size(name: str, what: str, size: int, vector: int, dtype: torch.dtype) -> None:
    numbers = vector // dtype.itemsize
    if size % numbers:
        raise UnsupportedModel(
            f"{name}: batch_invariant is True, and {what} are {size}, expected a multiple of {numbers}: "
            "torch rounds the last numbers of a tensor otherwise"
        )


def refuse_mixed_bits(model: Any, call: Call) -> None:
    """Raises UnsupportedModel unless rows have the same bits in passes of few and of many rows.

    Args:
        model: the causal LM.
        call: a pass of given tokens and positions, int64 ``[rows]``, with attention of its own.
    """
    tokens = torch.cat(probe_tokens(model)).repeat(max(ROWS) // 8)
    positions = torch.arange(len(tokens))
    whole = call(tokens, positions, Probe()).logits[0].contiguous().view(torch.uint8)
    for rows in ROWS:
        logits = call(tokens[:rows], positions[:rows], Probe()).logits[0].contiguous().view(torch.uint8)
        if not torch.equal(logits, whole[:rows]):
            raise UnsupportedModel(
                f"{type(model).__name__}: batch_invariant is True, and the logits of rows have other bits "
                f"beside {len(tokens) - rows} more rows: some layer of it computes rows together"
            )
