"""Opening a model, with something on the screen while it takes time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hornbeam.cli.screen import Screen

__all__ = ["open_lm", "open_tokenizer", "prepared"]


def prepared(name: str, screen: Screen) -> Path:
    """The folder of a model, converted first if it is the default model and this is the first time."""
    from hornbeam.model import loading

    with screen.preparing(name) as progress:
        return loading.resolve(name, progress=progress)


def open_tokenizer(name: str, path: Path, screen: Screen) -> Any:
    """The tokenizer of a model."""
    from hornbeam.model import loading

    with screen.waiting(f"loading the tokenizer of {name}"):
        return loading.load_tokenizer(path)


def open_lm(
    name: str, path: Path, tokenizer: Any, dtype: str, device: str, screen: Screen, **options: Any
) -> Any:
    """The language model of a folder; ``dtype`` is ``"auto"`` or the name of torch's, and ``options`` are
    further ones of :class:`hornbeam.LM`."""
    with screen.waiting(f"loading {name}"):
        import torch

        from hornbeam.lm import LM
        from hornbeam.model import loading

        weights = dtype if dtype == "auto" else getattr(torch, dtype)
        return LM(loading.load_model(path, dtype=weights, device=device), tokenizer, **options)
