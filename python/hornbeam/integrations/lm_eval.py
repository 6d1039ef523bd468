"""lm-evaluation-harness over hornbeam: ``--model hornbeam``.

    pip install 'hornbeam[eval]'
    python -m hornbeam.integrations.lm_eval --model hornbeam --model_args pretrained=FOLDER --tasks TASK

is the harness's own command line, which knows this model too. From Python an object of :class:`HornbeamLM`
goes to ``lm_eval.simple_evaluate``, or :func:`register` makes the name known. Held to lm-eval 0.4.13, whose
``hf`` model it follows: the same tokens, truncation and stop strings, so the same figures up to the noise of
floating point. It is faster because what contexts begin with in common, such as few-shot examples, is
computed once. See docs/evaluate.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from hornbeam.errors import ArgumentError, MissingExtra
from hornbeam.integers import whole_number
from hornbeam.integrations import evaluation
from hornbeam.lm import LM
from hornbeam.model import loading

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from tqdm import tqdm
except ModuleNotFoundError as error:
    raise MissingExtra("lm-eval is not installed: pip install 'hornbeam[eval]'") from error

__all__ = ["HornbeamLM", "main", "register"]

NAME = "hornbeam"
# Of its command line, where the user names no device.
_HARNESS_DEVICE = "cuda:0"
_LOG = logging.getLogger(__name__)


class HornbeamLM(TemplateLM):
    """A model of the harness that is a :class:`hornbeam.LM`.

    Args:
        pretrained: ``"smollm2"``, a local folder of safetensors, or a :class:`hornbeam.LM`, which has the
            arguments down to ``max_kv_bytes`` itself.
        tokenizer: a folder with another tokenizer.
        dtype: of the weights: ``"auto"`` (that of the checkpoint), ``"float32"``, ``"bfloat16"``, ...
        device: ``"cpu"``, or ``"cuda"``. ``"cuda:0"`` is what the harness gives by itself: where
            there is no such device, that is the CPU, as it is for the harness's own models.
        kv_dtype: of the pages, by name; that of the weights by default.
        max_kv_bytes: as :class:`hornbeam.LM` has it.
        batch_size: documents that are under way together; 1, which is what the harness gives by itself, and
            ``"auto"`` leave it to the engine.
        max_batch_size: at most so many.
        max_length: tokens of the context; the model's positions by default.
        max_gen_toks: new tokens where a task does not say.
        add_bos_token: whether texts begin with the tokenizer's special tokens; its own habit by default.
        prefix_token_id: stands before texts that have no context; the token that begins texts by default, or
            else the one that ends them.
        draft: as :meth:`hornbeam.LM.generate` has it, by name; ``"none"`` decodes plainly. The text is the
            same.
        chat_template_args: more for the tokenizer's chat template.
        think_end_token: what an answer says up to and with this string is left out.

    Raises:
        ArgumentError: an argument out of range.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        tokenizer: str | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        kv_dtype: str | None = None,
        max_kv_bytes: int | str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        draft: str | None = None,
        chat_template_args: dict[str, Any] | None = None,
        think_end_token: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, LM):
            self.lm, self._name = pretrained, str(getattr(pretrained.tokenizer, "name_or_path", ""))
        else:
            path = loading.resolve(pretrained)
            if device == _HARNESS_DEVICE and not torch.cuda.is_available():
                _LOG.warning("there is no device %s, the model runs on the CPU", device)
                device = "cpu"
            model, own = loading.load(path, dtype=dtype, device=device)
            kept = None if kv_dtype is None else getattr(torch, kv_dtype, None)
            if kv_dtype is not None and not isinstance(kept, torch.dtype):
                raise ArgumentError(f"kv_dtype is {kv_dtype!r}, expected the name of a torch dtype")
            other = own if tokenizer is None else loading.load_tokenizer(tokenizer)
            self.lm = LM(model, other, kv_dtype=kept, max_kv_bytes=max_kv_bytes)
            self._name = str(path if tokenizer is None else tokenizer)
        if self.lm.tokenizer is None:
            raise ArgumentError("the model has no tokenizer, expected one: tasks are texts")
        self.tokenizer = self.lm.tokenizer
        self.max_length = self.lm.max_positions
        if max_length is not None:
            self.max_length = whole_number(max_length, "max_length", 2, self.lm.max_positions)
        self.max_gen_toks = whole_number(max_gen_toks, "max_gen_toks", 1)
        self._together = _together(batch_size, max_batch_size)
        self._device = self.lm.model.device
        self._add_special = add_bos_token
        self._prefix_token_id = prefix_token_id
        self._draft: dict[str, Any] = {} if draft is None else {"draft": None if draft == "none" else draft}
        self._chat_template_args = chat_template_args or {}
        self._think_end = think_end_token

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def batch_size(self) -> int | str:
        """Documents that are under way together."""
        return self._together or "auto"

    @property
    def tokenizer_name(self) -> str:
        """Of the tokenizer, for the harness's caches."""
        return self._name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its figures."""
        parameters = sum(parameter.numel() for parameter in self.lm.model.parameters())
        return {"model_num_parameters": parameters, "model_dtype": str(self.lm.model.dtype)}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Token ids of a text, with the special tokens that stand before one, unless it begins with them."""
        special = self._add_special if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            special = False
        return list(
            self.tokenizer.encode(string, **({} if special is None else {"add_special_tokens": special}))
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a chat, up to where the model is to speak, or to go on with its last message."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self._chat_template_args,
        )
        return text

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            options = {"max_length": self.max_length, "together": self._together, "told": bar.update}
            answers = evaluation.scored(self.lm, pairs, **options)
        for (text, _, _), found in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, found)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of every text its log-likelihood; what does not fit the context is read in windows."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        ends = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            for window in utils.get_rolling_token_windows(
                token_list=tokens,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
            ends.append(len(windows))
        parts = [found for found, _ in self._loglikelihood_tokens(windows, disable_tqdm)]
        totals = [sum(parts[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to its stop strings."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(place)
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for places in groups.values():
                given = requests[places[0]].args[1]
                asked = evaluation.request_of(given, max_new_tokens=self.max_gen_toks)
                contexts = [self.tok_encode(requests[place].args[0]) for place in places]
                options = {"max_length": self.max_length, "together": self._together, "told": bar.update}
                found = evaluation.generated(self.lm, contexts, asked, **options, **self._draft)
                for place, tokens in zip(places, found, strict=True):
                    text = self.tokenizer.decode(tokens, skip_special_tokens=True)
                    if self._think_end:
                        text = text.split(self._think_end)[-1].lstrip()
                    answers[place] = evaluation.cut(text, (*asked.stop, *([end] if end else [])))
                    self.cache_hook.add_partial("generate_until", requests[place].args, answers[place])
        return answers


def _together(batch_size: int | str, max_batch_size: int | None) -> int | None:
    """Documents that are under way together; None leaves it to the engine."""
    if isinstance(batch_size, str) and batch_size.isdecimal():
        batch_size = int(batch_size)
    most = None if max_batch_size is None else whole_number(max_batch_size, "max_batch_size", 1)
    if batch_size in ("auto", 1):
        return most
    size = whole_number(batch_size, "batch_size", 1)
    return size if most is None else min(size, most)


def register() -> None:
    """Makes ``"hornbeam"`` a model that the harness knows by name."""
    import lm_eval.models  # noqa: F401, its own models first: it looks for them only while it knows none
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{HornbeamLM.__module__}:{HornbeamLM.__name__}")


def main() -> None:
    """The harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


if __name__ == "__main__":
    from hornbeam.integrations import lm_eval as itself

    itself.main()
