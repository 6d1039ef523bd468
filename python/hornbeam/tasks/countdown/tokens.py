"""The vocabulary of Countdown: every number is one token, and so is every sign with its spaces."""

from __future__ import annotations

from typing import Any

from hornbeam.errors import MissingExtra

__all__ = ["END", "LARGEST", "NEWLINE", "NUMBER", "SIGNS", "VOCABULARY", "tokenizer"]

#: The largest number that a problem or a step may have; the smallest is 1.
LARGEST = 99
#: Tokens that are no numbers, by id.
SIGNS = ("<pad>", "<end>", "\n", " ", " + ", " - ", " * ", " / ", " = ", " -> ", ", ", "; ", "<unknown>")
PAD, END, NEWLINE, SPACE = range(4)
PLUS, MINUS, TIMES, DIVIDE, EQUALS, ARROW, COMMA, CHOSEN, UNKNOWN = range(4, 13)
#: The id of the number 0, which is not in the vocabulary: that of ``n`` is ``NUMBER + n``.
NUMBER = len(SIGNS) - 1
#: Ids, rounded up to a whole number of cache lines; those beyond the last number are never written.
VOCABULARY = 112


def tokenizer() -> Any:
    """The tokenizer, a ``transformers`` one. Text comes back from its tokens letter by letter.

    Raises:
        MissingExtra: transformers or tokenizers is not installed.
    """
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingExtra(
            "Countdown needs transformers and tokenizers: pip install 'hornbeam[hf]'"
        ) from error
    words = [*SIGNS, *map(str, range(1, LARGEST + 1))]
    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    built.pre_tokenizer = pre_tokenizers.Split(Regex(r" (?:[-+*/=]|->) |, |; |\n| |\d+"), "isolated")
    built.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
