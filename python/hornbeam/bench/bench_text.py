"""What a token of text costs while nothing can be decoded, over a token of ordinary text.

Each row pushes 8,000 tokens through ``TextStream`` with a stop string and takes what is certain after each,
as ``generate`` does: ``invalid_bytes`` repeats the byte 0xFF of the default model's tokenizer, which begins
no character; ``byte_runs`` repeats the bytes of a character of a tokenizer like Llama 2's, which decodes
neighbouring bytes together. Both are timed in turn with ordinary text through the same tokenizer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hornbeam.bench import harness
from hornbeam.bench.workload import mixed
from hornbeam.model import loading
from hornbeam.text import TextStream, continuation

TOKENS = 8_000


def push_all(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Pushes and takes token by token; what was taken."""
    stream = TextStream(tokenizer, ["never there"])
    shown = []
    for token in tokens:
        stream.push(token)
        shown.append(stream.take())
    stream.finish()
    return [*shown, stream.take(everything=True)]


def _timed(tokenizer: Any, tokens: Sequence[int]) -> float:
    begin = time.perf_counter()
    push_all(tokenizer, tokens)
    return time.perf_counter() - begin


def row(tokenizer: Any, undecodable: Sequence[int], ordinary: Sequence[int]) -> dict[str, Any]:
    """The ratio of a token of each, after a check that the text is that of all tokens at once."""
    for tokens in (undecodable, ordinary):
        assert "".join(push_all(tokenizer, tokens)) == continuation(tokenizer, [], tokens)
    seconds = harness.alternate(
        {
            "undecodable": lambda: _timed(tokenizer, undecodable),
            "ordinary": lambda: _timed(tokenizer, ordinary),
        }
    )
    # Times as long, not as fast: undecodable over ordinary.
    slower = harness.ratio(ours=seconds["ordinary"], theirs=seconds["undecodable"])
    print(f"  {slower.median:.2f} times an ordinary token [{slower.low:.2f}, {slower.high:.2f}]", flush=True)
    return {"tokens": len(ordinary), "undecodable_over_ordinary": slower}


def sentencepiece_tokenizer() -> Any:
    """As Llama 2 has it: words begin with a hidden space, and what has no token falls back to bytes.

    Ids 0 to 2 are special, 3 to 258 the bytes, then the space, letters, and words with their space.
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *"abcdefgh.", "\u2581a", "\u2581bad", "\u2581\u2581", "cab"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def run(quick: bool = False) -> dict[str, Any]:
    """Both tokenizers."""
    count = TOKENS // 10 if quick else TOKENS
    default = AutoTokenizer.from_pretrained(loading.resolve("smollm2"))
    text = default("\n".join(mixed()))["input_ids"]
    bad = default.convert_tokens_to_ids("ÿ")  # stands for the byte 0xFF
    spaced = sentencepiece_tokenizer()
    words = spaced.convert_tokens_to_ids(["▁a", "▁bad", "cab", "."])
    euro = spaced.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>"])

    def cycled(tokens: Sequence[int]) -> list[int]:
        return list(itertools.islice(itertools.cycle(tokens), count))

    return {
        "invalid_bytes": row(default, cycled([bad]), cycled(text)),
        "byte_runs": row(spaced, cycled(euro), cycled(words)),
    }
