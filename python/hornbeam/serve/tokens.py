"""How single tokens are shown beside their log-probabilities: as text, and as the bytes that they are."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

__all__ = ["TokenNames"]


class TokenNames:
    """The texts and bytes of a tokenizer's tokens.

    A token of a byte-level vocabulary may be a part of a character: its bytes are told exactly, and its text
    is ``bytes:\\\\xe2\\\\x80`` then, as OpenAI writes it.

    Args:
        tokenizer: of transformers, or whatever decodes as one does.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._letters = _byte_letters() if _is_byte_level(tokenizer) else {}
        special = getattr(tokenizer, "all_special_ids", ())
        self._special = frozenset(special)
        self.bytes_of = lru_cache(1 << 16)(self._bytes_of)
        self.text_of = lru_cache(1 << 16)(self._text_of)

    def _bytes_of(self, token: int) -> bytes:
        if token in self._special:
            return str(self._tokenizer.decode([token])).encode()
        if self._letters:
            name = self._tokenizer.convert_ids_to_tokens(token)
            if name is not None and all(letter in self._letters for letter in name):
                return bytes(self._letters[letter] for letter in name)
        elif hasattr(self._tokenizer, "convert_ids_to_tokens"):
            name = self._tokenizer.convert_ids_to_tokens(token) or ""
            if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
                return bytes([int(name[3:5], 16)])
            if name.startswith("\u2581"):
                return name.replace("\u2581", " ").encode()
        return str(self._tokenizer.decode([token])).encode()

    def _text_of(self, token: int) -> str:
        data = self._bytes_of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "ByteLevel" in repr(getattr(backend, "decoder", None))


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies write bytes with (GPT-2): those that can be printed stand for
    themselves, the others for 256 and up, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return found | {chr(256 + place): byte for place, byte in enumerate(others)}
