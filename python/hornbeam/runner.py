"""The model's forward pass over pages: rows in, logits and hidden states out.

The only file that calls the model. A forward pass is one flat ragged batch of rows in depth-first
order of the prefix tree; the model sees it as one sequence, ``[1, num_rows]``, with explicit
positions, and hornbeam's attention function takes what each row may see from the step's plan. The
function is switched in for the length of the call, so the user's own ``model.generate`` never meets it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hornbeam import cuda, ops
from hornbeam.errors import ArgumentError, MissingExtra, StateError, UnsupportedModel
from hornbeam.fast_linear import FastLinear
from hornbeam.layers import Computed, DecoderLayers, Tap

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.tree import PrefixTree, Step

__all__ = ["ModelShape", "Output", "Runner"]

ATTENTION_NAME = "hornbeam"
STEP_KEYWORD = "hornbeam_step"

# A chain of at least this many rows without a prefix goes to torch's fused causal attention.
DENSE_ROWS = 96

#: Called as ``observer(module, physical layer, queries [H, N, D] after the rotation, options of attention)``.
Observer = Callable[[torch.nn.Module, int, torch.Tensor, dict[str, Any]], None]

# What transformers may hand to an attention function without changing what a row sees.
HARMLESS_TENSORS = {"position_ids", "cache_position"}


@dataclass(frozen=True)
class ModelShape:
    """What the prefix tree and the driver need to know of a model, as its own forward pass showed it."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Output:
    """What one forward pass gives.

    ``logits``: ``[rows asked for, vocabulary]``, in the order asked for. ``hidden``: ``None``, or the
    hidden states ``[num_rows, hidden]`` after the embedding and after each layer, in row order.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None


class _Attention(Protocol):
    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor: ...


def _attention_function(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls: ``query [1, H, N, D]``, ``key`` and ``value``
    ``[1, Hk, N, D]``; gives ``[1, N, H, D]``."""
    step: _Attention | None = options.pop(STEP_KEYWORD, None)
    if step is None:
        raise StateError("the attention implementation 'hornbeam' runs inside hornbeam.LM only")
    return step(module, query, key, value, attention_mask, options), None


class _Probe:
    """Records what the layers hand to their attention, and answers with plain causal attention."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[int, int, int]] = {}
        self.scale: float | None = None

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int):
            raise UnsupportedModel(f"{type(module).__name__} has no layer_idx")
        if layer in self.layers:
            raise UnsupportedModel(f"layer {layer} calls its attention more than once (cross attention?)")
        if not getattr(module, "is_causal", True):
            raise UnsupportedModel(f"layer {layer} ({type(module).__name__}) is not causal")
        if mask is not None:
            raise UnsupportedModel(
                f"layer {layer} ({type(module).__name__}) makes an attention mask of its own"
            )
        for name, value_ in options.items():
            known = name in HARMLESS_TENSORS or name == "s_aux"
            if isinstance(value_, torch.Tensor) and not known:
                raise UnsupportedModel(
                    f"layer {layer} hands {name!r} to its attention, which pages cannot honour"
                )
        if key.shape != value.shape:
            raise UnsupportedModel(
                f"layer {layer} has keys of shape {list(key.shape)} and values of {list(value.shape)}"
            )
        if query.shape[2] != key.shape[2]:
            raise UnsupportedModel(f"layer {layer} reads {key.shape[2]} keys for {query.shape[2]} rows")
        self.layers[layer] = (query.shape[1], key.shape[1], key.shape[3])
        self.scale = options.get("scaling")
        groups = query.shape[1] // key.shape[1]
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, dim=1),
            value.repeat_interleave(groups, dim=1),
            is_causal=True,
            scale=options.get("scaling"),
        )
        return out.transpose(1, 2).contiguous()


class _PagedAttention:
    """Writes the rows' keys and values to their pages, then lets every row read what its plan shows."""

    def __init__(
        self,
        tree: PrefixTree,
        shape: ModelShape,
        plan: Plan | cuda.DevicePlan,
        *,
        is_dense: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.observer = observer
        self.tree = tree
        self.chunks = tree.chunks
        self.layer_map = tree.layer_map
        self.plan = plan
        self.num_kv_heads = shape.num_kv_heads
        self.num_rows = plan.num_rows
        self.dense = is_dense and self.num_rows >= DENSE_ROWS
        self.tap: Tap | None = None
        self.rounds = tree.dtype != shape.dtype

    def write(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes the rows of a layer, ``[rows, kv heads, head size]``, to their pages."""
        ops.write_rows(
            keys,
            values,
            self.chunks,
            self.plan,
            layer=self.layer_map[index],
            num_kv_heads=self.num_kv_heads,
        )
        if self.tap is not None and index < self.tap.layer:
            self.tap.keys[index], self.tap.values[index] = keys, values

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        index: int = module.layer_idx  # type: ignore[assignment]
        self.write(index, key[0].transpose(0, 1), value[0].transpose(0, 1))
        layer = self.layer_map[index]
        if self.observer is not None:
            self.observer(module, layer, query[0], options)
        window = options.get("sliding_window")
        soft_cap = options.get("softcap")
        sinks = options.get("s_aux")
        plain = soft_cap is None and sinks is None and (window is None or window >= self.num_rows)
        if self.dense and plain:
            if self.rounds:
                key = key.to(self.tree.dtype).to(query.dtype)
                value = value.to(self.tree.dtype).to(query.dtype)
            out = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=options.get("scaling"), enable_gqa=True
            )
            return out.transpose(1, 2).contiguous()
        rows = query[0].transpose(0, 1)
        out = torch.empty_like(rows, memory_format=torch.contiguous_format)
        ops.tree_attention(
            rows,
            self.chunks,
            self.plan,
            layer=layer,
            num_kv_heads=self.num_kv_heads,
            scale=options.get("scaling"),
            window=window,
            soft_cap=soft_cap,
            sinks=None if sinks is None else sinks.detach().float().contiguous(),
            out=out,
        )
        return out.unsqueeze(0)


class Runner:
    """Drives a transformers causal LM over a :class:`~hornbeam.tree.PrefixTree`.

    Construction checks that the architecture fits (with one forward pass of two rows) and raises
    :class:`~hornbeam.errors.UnsupportedModel` with the reason where it does not. Calls are
    serialised by a lock; a call changes nothing of the model that outlasts it.
    """

    def __init__(self, model: Any) -> None:
        _register()
        _refuse_by_config(model)
        self.model = model
        self.lock = threading.RLock()
        self._configs = _attention_configs(model)
        self._linear = FastLinear(model)
        self.shape = self._probe()
        self._layers: DecoderLayers | None = None

    @property
    def is_asynchronous(self) -> bool:
        """Whether :meth:`forward` returns before the device is done."""
        return self.shape.device.type != "cpu"

    def wait(self) -> None:
        """Waits until the device has done everything that was asked of it."""
        if self.is_asynchronous:
            torch.cuda.synchronize(self.shape.device)

    def forward(
        self,
        tree: PrefixTree,
        step: Step,
        *,
        logits_rows: Sequence[int] | torch.Tensor | None = None,
        hidden: bool = False,
        layers: frozenset[int] | None = None,
        tap: Tap | None = None,
        entry: Computed | None = None,
        observer: Observer | None = None,
    ) -> Output:
        """Runs the rows of an open step; their keys and values are in the pages afterwards.

        With ``layers`` only these run, and only theirs are; ``tap`` takes what those below its layer
        compute. ``entry`` is what the layers below ``entry.layer`` gave for the step's rows earlier, in
        row order: they do not run again.

        On a device, returns before that: what reads the outputs waits. ``logits_rows`` names the rows
        whose logits are wanted, in the order wanted; ``None`` means all.
        ``observer`` sees every layer's queries, once its keys are in the pages.
        The caller commits or rolls back.
        """
        inputs = [step.host_token_ids, step.host_positions]
        if logits_rows is not None:
            inputs.append(torch.as_tensor(logits_rows, dtype=torch.int64))
        token_ids, positions, *rows = cuda.upload(inputs, self.shape.device)
        plan: Plan | cuda.DevicePlan = step.plan
        if cuda.is_on_device(tree.chunks[0]):
            heads, kv_heads = self.shape.num_heads, self.shape.num_kv_heads
            plan = cuda.DevicePlan(step.plan, tree.chunks, num_heads=heads, num_kv_heads=kv_heads)
        attention = _PagedAttention(tree, self.shape, plan, is_dense=step.is_dense, observer=observer)
        attention.tap = tap
        with ExitStack() as stack:
            if layers is not None or entry is not None:
                stack.enter_context(self.lock)
                stack.enter_context(torch.inference_mode())
                kept = frozenset(range(self.shape.num_layers) if layers is None else layers)
                if entry is not None:
                    kept -= frozenset(range(entry.layer))
                    for index, (keys, values) in enumerate(zip(entry.keys, entry.values, strict=True)):
                        attention.write(index, keys, values)
                stack.enter_context(self.decoder_layers().switched(kept, tap, entry))
            result = self._call(token_ids, positions, attention, rows[0] if rows else 0, hidden)
        states = None
        if hidden:
            states = tuple(state[0] for state in result.hidden_states)
        return Output(result.logits[0], states)

    def logits_over(
        self,
        tree: PrefixTree,
        plan: cuda.DevicePlan,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        logits_rows: torch.Tensor,
    ) -> torch.Tensor:
        """The logits ``[rows asked for, vocabulary]`` of a plan's rows, padding included, all arguments
        on the device: nothing is sent there, so that the call can be captured in a graph."""
        attention = _PagedAttention(tree, self.shape, plan)
        result = self._call(token_ids, positions, attention, logits_rows, False)
        logits: torch.Tensor = result.logits[0]
        return logits

    def decoder_layers(self) -> DecoderLayers:
        """The model's layers, for passes through some of them.

        Raises:
            UnsupportedModel: they cannot be told apart.
        """
        if self._layers is None:
            rows = torch.tensor([0], device=self.shape.device)
            run = partial(self._call, rows, rows, _Probe(), 0, False)
            self._layers = DecoderLayers(self.model, self.shape.num_layers, run)
        return self._layers

    def _call(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: _Attention,
        logits_rows: int | torch.Tensor,
        hidden: bool,
    ) -> Any:
        options: dict[str, Any] = {STEP_KEYWORD: attention}
        if hidden:
            options["output_hidden_states"] = True
        with self.lock, torch.inference_mode(), self._attention_switched(), self._linear:
            return self.model(
                input_ids=token_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=logits_rows,
                **options,
            )

    @contextmanager
    def _attention_switched(self) -> Iterator[None]:
        before = [config._attn_implementation_internal for config in self._configs]
        training = self.model.training
        for config in self._configs:
            config._attn_implementation_internal = ATTENTION_NAME
        if training:
            self.model.eval()
        try:
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = name
            if training:
                self.model.train()

    def _probe(self) -> ModelShape:
        model, name = self.model, type(self.model).__name__
        parameter = next(model.parameters())
        if parameter.device.type == "meta":
            raise UnsupportedModel(f"{name} has its weights on the meta device; load them first")
        probe = _Probe()
        rows = torch.tensor([0, 0], device=parameter.device)
        positions = torch.tensor([0, 1], device=parameter.device)
        try:
            result = self._call(rows, positions, probe, 0, False)
        except UnsupportedModel:
            raise
        except Exception as error:
            raise UnsupportedModel(f"{name} does not run over pages: {error}") from error
        text = model.config.get_text_config()
        num_layers = text.num_hidden_layers
        missing = sorted(set(range(num_layers)) - set(probe.layers))
        if missing:
            raise UnsupportedModel(
                f"{name}: layers {missing} of {num_layers} do not call transformers' attention interface "
                "(state-space or linear attention, or custom code)"
            )
        shapes = set(probe.layers.values())
        if len(shapes) != 1:
            raise UnsupportedModel(f"{name}: layers differ in (heads, kv heads, head size): {sorted(shapes)}")
        num_heads, num_kv_heads, head_dim = shapes.pop()
        if head_dim % 8 or not 8 <= head_dim <= 256:
            raise UnsupportedModel(f"{name}: head size is {head_dim}, expected a multiple of 8 up to 256")
        #: What attention multiplies scores by.
        self.scale = head_dim**-0.5 if probe.scale is None else float(probe.scale)
        return ModelShape(
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            vocab_size=int(result.logits.shape[-1]),
            max_positions=_max_positions(text),
            dtype=parameter.dtype,
            device=parameter.device,
        )


def _register() -> None:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("hornbeam.LM needs transformers: pip install 'hornbeam[hf]'") from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise MissingExtra(
            f"transformers is {transformers.__version__}, expected 5 or newer: pip install -U 'hornbeam[hf]'"
        )
    transformers.AttentionInterface.register(ATTENTION_NAME, _attention_function)


def _refuse_by_config(model: Any) -> None:
    from transformers import PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(f"{name} is not a transformers model")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder: cross attention does not go over pages")
    if model.get_output_embeddings() is None:
        raise UnsupportedModel(f"{name} has no language-model head")
    text = model.config.get_text_config()
    known = {"full_attention", "sliding_attention"}
    other = sorted(set(getattr(text, "layer_types", None) or ()) - known)
    if other:
        raise UnsupportedModel(
            f"{name} has layers of type {', '.join(other)}, expected {', '.join(sorted(known))}"
        )
    if not hasattr(text, "num_hidden_layers"):
        raise UnsupportedModel(f"{name} does not say how many layers it has")
    if not model._can_set_attn_implementation():
        raise UnsupportedModel(f"{name} does not use transformers' attention interface (custom code?)")


def _attention_configs(model: Any) -> list[Any]:
    """Every configuration that some module reads its attention implementation from, once each."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return list(found.values())


def _max_positions(config: Any) -> int:
    """How many positions a sequence may have. Rotary embeddings whose frequencies change with the
    longest sequence in the batch (``dynamic``, ``longrope``) are exact only up to the original length,
    since the rows of one step belong to sequences of different lengths."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        raise ArgumentError(f"max_position_embeddings is {limit!r}, expected a positive integer")
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for kind in kinds:
        if kind.get("rope_type") in ("dynamic", "longrope"):
            original = kind.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            limit = min(limit, int(original or limit))
    return limit
