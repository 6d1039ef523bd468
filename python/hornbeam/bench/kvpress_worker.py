"""kvpress's side of a bench: reads requests as JSON lines, answers in JSON lines. Runs in an environment of
its own (:mod:`kvpress_peer` makes it), and imports nothing of hornbeam unless asked to.

One prompt is read once without a press; the inputs, keys and values of every layer are kept, and each press's
own ``compress`` runs on them, layer by layer, as kvpress's forward hook would have called it: the hook acts
after a layer's attention, so that what it takes away changes no later layer of the prompt. ``verify`` holds
that against a run under the press's context manager. A press's scores are computed once a prompt, where they
do not depend on the share kept.

transformers 5.2 makes one mask, of the first layer's length, for layers that hold different numbers of keys
(``PyramidKVPress``), and torch's attention then refuses it; here its last columns are taken, which say the
same.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

import kvpress
import torch
from kvpress.utils import get_prerope_query_states
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

PRESSES: dict[str, Callable[[float], Any]] = {
    "streaming_llm": kvpress.StreamingLLMPress,
    "observed_attention": kvpress.ObservedAttentionPress,
    "tova": kvpress.TOVAPress,
    "snap_kv": kvpress.SnapKVPress,
    "pyramid_kv": kvpress.PyramidKVPress,
    "ada_kv": lambda ratio: kvpress.AdaKVPress(kvpress.SnapKVPress(ratio)),
    "expected_attention": kvpress.ExpectedAttentionPress,
    "key_diff": kvpress.KeyDiffPress,
    "knorm": kvpress.KnormPress,
    "snap_kv_merged": lambda ratio: kvpress.MergingPress(kvpress.SnapKVPress(ratio)),
}


@dataclass
class Layer:
    """What one layer was given and put into the cache."""

    module: Any
    arguments: dict[str, Any]
    keys: torch.Tensor  # [1, Hk, N, D]
    values: torch.Tensor


@dataclass
class Prompt:
    tokens: list[int]
    layers: list[Layer]
    scores: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)


#: Keys, values and what is masked of them, a layer.
Kept = list[tuple[torch.Tensor, torch.Tensor, Any]]


class Worker:
    def load(self, model: str, threads: int) -> dict[str, Any]:
        import transformers

        torch.set_num_threads(threads)
        for name, function in list(ALL_ATTENTION_FUNCTIONS.items()):
            ALL_ATTENTION_FUNCTIONS[name] = _with_mask_of_the_layer(function)
        transformers.utils.logging.disable_progress_bar()
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        for layer in self.model.model.layers:  # as a press's context manager does
            layer.self_attn.rotary_emb = self.model.model.rotary_emb
        return {
            "kvpress": _version("kvpress"),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    # -- one prompt, many presses ----------------------------------------------------------------

    def read(self, context: list[int]) -> dict[str, Any]:
        """Reads a prompt, for the requests that follow."""
        given: list[tuple[Any, dict[str, Any]]] = []

        def note(module: Any, arguments: Any, options: dict[str, Any], output: Any) -> None:
            given.append((module, options))

        cache = DynamicCache()
        hooks = [
            layer.self_attn.register_forward_hook(note, with_kwargs=True) for layer in self.model.model.layers
        ]
        begin = time.perf_counter()
        try:
            self.model.model(input_ids=torch.tensor([context]), past_key_values=cache)
        finally:
            for hook in hooks:
                hook.remove()
        layers = [
            Layer(module, options, held.keys, held.values)
            for (module, options), held in zip(given, cache.layers, strict=True)
        ]
        self.prompt = Prompt(context, layers)
        return {"seconds": time.perf_counter() - begin}

    def ask(
        self,
        questions: list[list[int]],
        answers: list[list[int]],
        presses: Iterable[str],
        keeps: list[float],
    ) -> dict[str, Any]:
        """By press and share kept: for each question, whether greedy decoding would give the answer, and the
        log-probability of the answer. ``full`` is the cache without a press."""
        full: Kept = [(layer.keys, layer.values, None) for layer in self.prompt.layers]
        found: dict[str, Any] = {"full": self._answers(full, questions, answers)}
        for press in presses:
            found[press] = {
                str(keep): self._answers(self._compressed(press, keep), questions, answers) for keep in keeps
            }
        return found

    def kept(self, press: str, keep: float) -> list[list[list[int]]]:
        """Positions that stay, by layer and head, ascending."""
        return self._positions(self._compressed(press, keep))

    def verify(self, press: str, keep: float, questions: list[list[int]]) -> dict[str, Any]:
        """Differences between the way of this file and a run under the press's own context manager, on the
        prompt that was read: positions that one keeps and the other not, as a share of those kept, and the
        greatest difference of the logits of the questions' last rows, asked all at once and one by one."""
        fast = self._compressed(press, keep)
        positions = self._positions(fast)
        together = torch.stack([rows[-1] for rows in self._logits(fast, questions, 1)])
        made, cache = self._prefilled(press, keep, self.prompt.tokens)
        masked = [layer.module.__dict__.get("masked_key_indices") for layer in self.prompt.layers]
        real: Kept = [(held.keys, held.values, mask) for held, mask in zip(cache.layers, masked, strict=True)]
        theirs = self._positions(real)
        pairs = [
            (set(a), set(b))
            for mine, their in zip(positions, theirs, strict=True)
            for a, b in zip(mine, their, strict=True)
        ]
        lengths = [held.get_seq_length() for held in cache.layers]
        alone = []
        for question in questions:
            rows = torch.arange(len(self.prompt.tokens), len(self.prompt.tokens) + len(question))[None]
            output = self.model(
                input_ids=torch.tensor([question]),
                past_key_values=cache,
                position_ids=rows,
                logits_to_keep=1,
            )
            alone.append(output.logits[0, -1])
            _cut(cache, lengths)
        self._clear()
        return {
            "press": type(made).__name__,
            "moved": sum(len(a ^ b) for a, b in pairs) / 2 / sum(len(b) for _, b in pairs),
            "logits": float((together - torch.stack(alone)).abs().max()),
        }

    def as_recipe(self, press: str, keep: float) -> float:
        """The share of positions kept by ``hornbeam.integrations.kvpress.as_recipe`` of the press that the
        press itself does not keep, on the prompt that was read."""
        import hornbeam as hb
        from hornbeam.engine.eviction import Keeper

        recorded: list[Any] = []
        reduce = Keeper._reduce

        def recording(keeper: Any, sequence: Any, state: Any) -> None:
            keeper.record = {}
            reduce(keeper, sequence, state)
            recorded.extend(positions.tolist() for positions in keeper.record[sequence.index])

        Keeper._reduce = recording  # type: ignore[method-assign, assignment]
        try:
            recipe = hb.integrations.kvpress.as_recipe(PRESSES[press](1 - keep), f"{100 * keep:g}%")
            hb.LM(self.model).generate(self.prompt.tokens, keep=recipe, max_new_tokens=2, draft=None)
        finally:
            Keeper._reduce = reduce  # type: ignore[method-assign]
            for layer in self.model.model.layers:
                layer.self_attn.rotary_emb = self.model.model.rotary_emb
        theirs = [set(head) for layer in self.kept(press, keep) for head in layer]
        missing = sum(len(set(a) - b) for a, b in zip(recorded, theirs, strict=True))
        return missing / sum(map(len, recorded))

    # -- one prompt, one press, timed ------------------------------------------------------------

    def prefill(self, context: list[int], press: str, keep: float) -> dict[str, Any]:
        """Reads a prompt under a press, for :meth:`steps`."""
        self._clear()
        begin = time.perf_counter()
        _, self.cache = self._prefilled(press, keep, context)
        self.length = len(context)
        return {"seconds": time.perf_counter() - begin}

    def steps(self, token: int, count: int) -> float:
        """Seconds of so many plain greedy steps; what they appended is taken off again, untimed."""
        lengths = [held.get_seq_length() for held in self.cache.layers]
        begin = time.perf_counter()
        for step in range(count):
            output = self.model(
                input_ids=torch.tensor([[token]]),
                past_key_values=self.cache,
                position_ids=torch.tensor([[self.length + step]]),
            )
            token = int(output.logits[0, -1].argmax())
        spent = time.perf_counter() - begin
        _cut(self.cache, lengths)
        return spent

    # -- parts -----------------------------------------------------------------------------------

    def _prefilled(self, name: str, keep: float, context: list[int]) -> tuple[Any, DynamicCache]:
        """A prompt read as kvpress's pipeline reads it."""
        press, cache = PRESSES[name](1 - keep), DynamicCache()
        eager = name == "observed_attention"
        if eager:
            self.model.set_attn_implementation("eager")
        try:
            with press(self.model):
                self.model.model(input_ids=torch.tensor([context]), past_key_values=cache)
        finally:
            if eager:
                self.model.set_attn_implementation("sdpa")
        return press, cache

    def _compressed(self, name: str, keep: float) -> Kept:
        press = PRESSES[name](1 - keep)
        press.post_init_from_model(self.model)
        scorer = getattr(press, "press", press)
        original = scorer.score
        label = type(scorer).score.__qualname__
        memo = self.prompt.scores

        def score(module: Any, *arguments: Any) -> torch.Tensor:
            at = (label, module.layer_idx)
            if at not in memo:
                memo[at] = original(module, *arguments)
            return memo[at].clone()

        if name != "streaming_llm":  # its scores depend on how much is to go
            scorer.score = score
        kept: Kept = []
        for layer in self.prompt.layers:
            wants = name == "observed_attention" and (label, layer.module.layer_idx) not in memo
            attentions = _probabilities(layer) if wants else None
            layer.module.masked_key_indices = None
            hidden = layer.arguments["hidden_states"]
            keys, values = press.compress(
                layer.module, hidden, layer.keys, layer.values, attentions, layer.arguments
            )
            kept.append((keys, values, layer.module.masked_key_indices))
        self._clear()
        return kept

    def _clear(self) -> None:
        for layer in self.model.model.layers:
            layer.self_attn.masked_key_indices = None

    def _positions(self, kept: Kept) -> list[list[list[int]]]:
        """A kept key is told by the key of the prompt that it is nearest to."""
        found = []
        for layer, (keys, _, masked) in zip(self.prompt.layers, kept, strict=True):
            heads = []
            for head in range(keys.shape[1]):
                if masked is None:
                    near = torch.cdist(keys[0, head], layer.keys[0, head]).argmin(-1)
                    heads.append(sorted(near.tolist()))
                else:
                    gone = set(masked[2][masked[1] == head].tolist())
                    heads.append([n for n in range(keys.shape[2]) if n not in gone])
            found.append(heads)
        return found

    def _answers(
        self, kept: Kept, questions: list[list[int]], answers: list[list[int]]
    ) -> list[tuple[bool, float]]:
        """The known answer is given instead of decoded: greedy decoding writes it exactly where every token
        of it is the most probable one after those before."""
        tokens = [question + answer[:-1] for question, answer in zip(questions, answers, strict=True)]
        rows = self._logits(kept, tokens, len(answers[0]))
        return [outcome(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _logits(self, kept: Kept, tokens: list[list[int]], last: int) -> list[torch.Tensor]:
        """Logits of the last rows of each run of tokens, all runs in one batch over copies of the cache."""
        count = len(tokens)
        cache = DynamicCache()
        for index, (keys, values, masked) in enumerate(kept):
            cache.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), index)
            if masked is not None:
                _, heads, positions = masked
                batch = torch.arange(count).repeat_interleave(len(heads))
                masked = (batch, heads.repeat(count), positions.repeat(count))
            self.prompt.layers[index].module.masked_key_indices = masked
        rows = torch.arange(len(self.prompt.tokens), len(self.prompt.tokens) + len(tokens[0]))[None]
        output = self.model(
            input_ids=torch.tensor(tokens),
            past_key_values=cache,
            position_ids=rows,
            logits_to_keep=last,
        )
        self._clear()
        return list(output.logits)


def outcome(logits: torch.Tensor, answer: list[int]) -> tuple[bool, float]:
    """Whether every token of the answer is the most probable in its row, and its log-probability."""
    targets = torch.tensor(answer)
    logprobs = logits.float().log_softmax(-1).gather(1, targets[:, None])
    return bool((logits.argmax(-1) == targets).all()), float(logprobs.sum())


def _probabilities(layer: Layer) -> torch.Tensor:
    """`[1, H, N, N]`, as transformers' eager attention computes them."""
    query = get_prerope_query_states(layer.module, layer.arguments["hidden_states"])
    query, _ = apply_rotary_pos_emb(query, query, *layer.arguments["position_embeddings"])
    keys = repeat_kv(layer.keys, layer.module.num_key_value_groups)
    scores = (query @ keys.transpose(2, 3)).mul_(layer.module.scaling)
    tokens = scores.shape[-1]
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
    return scores.masked_fill_(later, -torch.inf).softmax(-1, dtype=torch.float32)


def _cut(cache: DynamicCache, lengths: list[int]) -> None:
    for held, length in zip(cache.layers, lengths, strict=True):
        held.keys, held.values = held.keys[:, :, :length], held.values[:, :, :length]


def _with_mask_of_the_layer(function: Any) -> Any:
    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        *rest: Any,
        **options: Any,
    ) -> Any:
        if mask is not None and mask.shape[-1] != key.shape[2]:
            mask = mask[..., -key.shape[2] :]
        return function(module, query, key, value, mask, *rest, **options)

    return attention


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def serve(requests: TextIO, replies: TextIO) -> None:
    """A request is ``{"call": name, ...}``; the reply ``{"result": ...}`` or ``{"error": traceback}``."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            with torch.inference_mode():
                reply = {"result": getattr(worker, request.pop("call"))(**request)}
        except Exception:
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    # Whatever a library prints goes to the error stream; the replies keep the output to themselves.
    output, sys.stdout = sys.stdout, sys.stderr
    serve(sys.stdin, output)
