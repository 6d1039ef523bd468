"""What ``hornbeam attend`` says and draws, and what it refuses."""

from __future__ import annotations

import base64
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam import recipes
from hornbeam.attend.recipe import NAMED_PREFILLS, NAMED_RECIPES
from hornbeam.cli.attend_choices import STUDIED
from hornbeam.cli.attend_page import Head, Layer, Study, page, studied, table
from hornbeam.errors import ArgumentError
from hornbeam.model import loading
from tests import models
from tests.browser import Browser
from tests.cli.conftest import Run

SETTINGS = {"model": "tiny", "recipe": "quest", "pages": "4"}
TEXT = "The hornbeam is a small tree with hard wood, and its leaves stay on in winter. " * 5


def data_of(text: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]


def test_the_recipes_that_are_named_are_those_that_there_are() -> None:
    assert list(STUDIED) == sorted(NAMED_RECIPES | NAMED_PREFILLS)
    for name in STUDIED:
        assert inspect.isfunction(getattr(recipes, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "qwest"], '--recipe is "qwest", expected one of: flex_prefill, inf_llm'),
        (["--set", "gamma"], '--set is "gamma", expected name=value'),
        (["--set", "=3"], '--set is "=3", expected name=value'),
        (["--set", "gamma=0.9", "--set", "gamma=1"], "--set tells gamma twice, expected it once"),
        (["--set", "pages=3"], "flex_prefill takes no pages, expected some of: gamma, tau"),
        (["--set", "gamma=2"], "gamma is 2, expected 0 to 1"),
        (["--recipe", "quest", "--set", "pages=12"], None),
        (["--layers", "1-"], '--layers is "1-", expected numbers such as 0,3-5'),
        (["--layers", "4-2"], '--layers is "4-2", expected numbers such as 0,3-5'),
        (["--max-tokens", "0"], "--max-tokens is 0, expected at least 1"),
        (["--device", "tpu"], 'device is "tpu", expected cpu'),
        (["--html", "no/such/folder.html"], "No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_are_checked_before_a_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str | None
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "check", lambda _: None)
    for name in ("resolve", "load_model", "load_tokenizer"):
        monkeypatch.setattr(loading, name, fail)
    result = run("attend", "--text", __file__, *options)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert ("a model is loaded" if message is None else message) in result.stderr


def test_a_text_becomes_a_table_and_a_page(run: Run, folder: Path, tmp_path: Path) -> None:
    text, html = tmp_path / "tree.txt", tmp_path / "out.html"
    text.write_text(TEXT, encoding="utf-8")
    options = ["--model", folder, "--recipe", "quest", "--set", "pages=4", "--max-tokens", "200"]
    result = run("attend", "--text", text, *options, "--html", html)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"of \d+ tokens the first 200 are read\n", result.stderr)
    head, *heads, mean, written = result.stdout.splitlines()
    assert head.split() == ["layer", "head", "pattern", "read", "covered", "top-k"]
    # Two layers of six heads; quest leaves both dense.
    assert [line.split()[:3] for line in heads] == [[str(i // 6), str(i % 6), "dense"] for i in range(12)]
    assert mean.split() == ["all", "12", "mean", *["100.0", "%"] * 3]
    assert written == f"written to {html}"
    data = data_of(html.read_text(encoding="utf-8"))
    assert data["settings"] == {"model": str(folder), "recipe": "quest", "pages": "4"}
    assert (data["title"], data["tokens"], data["num_heads"]) == ("tree.txt", 200, 6)
    assert "".join(data["pieces"]) == TEXT[:200]
    sparse = run("attend", "--text", text, *options, "--set", "dense_layers=0", "--layers", "1")
    lines = [line.split() for line in sparse.stdout.splitlines()]
    assert [line[:3] for line in lines[1:-1]] == [["1", str(head), "quest"] for head in range(6)]
    assert all(20 < float(line[3]) < 90 for line in lines[1:-1])
    unknown = run("attend", "--text", text, *options, "--layers", "2")
    assert unknown.exit_code == 2
    assert unknown.stderr.endswith("hornbeam: layer is 2, expected 0 to 1\n")


def test_a_text_from_stdin_that_is_empty(run: Run) -> None:
    result = run("attend", "--text", "-", stdin="\n")
    assert result.stderr == "hornbeam: the text is empty, expected some\n"


def test_a_study_is_that_of_the_arrays() -> None:
    lm = hb.LM(models.llama(), page_tokens=8)
    recipe = hb.recipes.quest(3, dense_layers=1)
    tokens, told = models.prompt(150, 2)[0].tolist(), list[int]()
    study = studied(lm, tokens, recipe, tell=told.append)
    found: dict[int, hb.attend.Recall] = {}

    def see(layer: int, seen: hb.attend.Seen) -> None:
        found[layer] = hb.attend.recall(recipe, seen.q, seen.k, layer=layer, scale=seen.scale, page_tokens=8)

    hb.attend.observe(lm, tokens, see)
    assert told == [0, 1]
    assert (study.tokens, study.side) == (150, 8)
    for layer in study.layers:
        measured = found[layer.layer]
        for index, head in enumerate(layer.heads):
            assert head.mass == pytest.approx(float(measured.mass[index]))
            assert (head.share, head.top_k) == (float(measured.shares[index]), float(measured.top_k[index]))
    # 150 tokens are 19 pages of 8, a cell each.
    assert len(study.layers[0].heads[0].cells) == 19 * 20 // 2
    assert set(study.layers[0].heads[0].cells) == {255}
    assert 0 in study.layers[1].heads[0].cells


def test_layers_that_cannot_be_studied_are_named() -> None:
    lm, tokens = hb.LM(models.gemma3()), models.prompt(40)[0].tolist()
    study = studied(lm, tokens, hb.recipes.quest(2))
    assert [layer.why for layer in study.layers] == [
        "a window of 8 tokens",
        "a window of 8 tokens",
        None,
        "a window of 8 tokens",
    ]
    assert "    0       read as ever: a window of 8 tokens" in table(study)
    with pytest.raises(ArgumentError, match="no layer can be studied: they attend with a window of 8 tokens"):
        studied(lm, tokens, hb.recipes.quest(2), layers=[0])


def made(layers: int = 3, heads: int = 4, tokens: int = 300, side: int = 16) -> Study:
    """A study whose maps are their diagonals, and more of the text the later the head."""
    count = -(-tokens // side)
    row, key = torch.tril_indices(count, count)
    own = []
    for index in range(heads):
        read = (row - key <= index) | (key == 0)
        cells = (read * 255).to(torch.uint8).numpy().tobytes()
        own.append(Head(f"pattern_{index % 2}", 0.2 + index / 100, 0.9 + index / 100, 0.5, cells))
    windowed = Layer(layers, (), "a window of 8 tokens")
    return Study(tokens, side, (*(Layer(layer, tuple(own)) for layer in range(layers)), windowed))


def test_the_page_holds_maps_and_figures() -> None:
    study, pieces = made(), ["</script><b>&amp;"] + [f" word{i}" for i in range(299)]
    data = data_of(page(study, pieces, SETTINGS, "a <i> title"))
    assert (data["title"], data["settings"], data["pieces"]) == ("a <i> title", SETTINGS, pieces)
    assert (data["tokens"], data["side"], data["num_heads"]) == (300, 16, 4)
    assert [layer["why"] for layer in data["layers"]] == [None, None, None, "a window of 8 tokens"]
    for layer, told in zip(study.layers, data["layers"], strict=True):
        assert [base64.b64decode(head["map"]) for head in told["heads"]] == [h.cells for h in layer.heads]
        assert [head["share"] for head in told["heads"]] == [head.share for head in layer.heads]


def shown_in(browser: Browser, text: str, file: Path, width: int, scheme: str = "light") -> None:
    browser.errors.clear()
    browser.requests.clear()
    file.write_text(text, encoding="utf-8")
    browser.prefer(scheme)
    browser.open(file, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_the_page_loads_and_does_not_overflow(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    pieces = [f" word{i}" if i % 9 else "\n" + "long" * 60 for i in range(300)]
    title = "</title><script>throw 1</script> " + "x" * 300 + "\udc80"
    shown_in(browser, page(made(), pieces, SETTINGS, title), tmp_path / "page.html", width, scheme)
    assert browser.sticking_out() == []
    assert browser.run("document.querySelectorAll('#grid button canvas').length") == 12
    assert browser.run("document.querySelector('.why').textContent") == "read as ever: a window of 8 tokens"
    assert browser.run("document.getElementById('shown').textContent") == "Layer 0, head 0: pattern_0"
    browser.run("document.querySelectorAll('#grid button')[7].click()")
    assert browser.run("document.getElementById('shown').textContent") == "Layer 1, head 3: pattern_1"
    assert browser.run("document.querySelectorAll('#grid [aria-pressed=true]').length") == 1
    # What is read is drawn in another colour than what is not; above the diagonal nothing is drawn.
    read, unread, after = browser.run("""(() => {
      const data = large.getContext('2d').getImageData(0, 0, 19, 19).data;
      const corners = [[0, 18], [9, 18], [18, 0]].map(([x, y]) => 4 * (19 * y + x));
      return corners.map((at) => [...data.slice(at, at + 4)]);
    })()""")
    assert read != unread
    assert (read[3], unread[3], after[3]) == (255, 255, 0)
    assert browser.errors == []
    assert browser.requests == []


def test_a_cell_says_what_it_is(browser: Browser, tmp_path: Path) -> None:
    pieces = [f"t{i} " for i in range(300)]
    shown_in(browser, page(made(), pieces, SETTINGS, "code"), tmp_path / "page.html", 1600)
    browser.run("document.getElementById('large').focus()")
    browser.press("ArrowDown")
    said = browser.run("document.getElementById('cell').textContent")
    assert said == "Rows 288 to 299 read 100 % of what they may of keys 0 to 15."
    browser.press("ArrowRight")
    said = browser.run("document.getElementById('cell').textContent")
    assert said == "Rows 288 to 299 read 0 % of what they may of keys 16 to 31."
    assert browser.run("document.getElementById('row-text').textContent").startswith("t288 t289 ")
    browser.press("Escape")
    assert browser.run("document.getElementById('cursor').hidden")
    box = browser.run("(b => [b.left, b.top, b.width, b.height])(large.getBoundingClientRect())")
    browser.drag([(box[0] + 2, box[1] + box[3] - 2)])
    assert browser.run("document.getElementById('cell').textContent").startswith("Rows 288 to 299 read 100 %")
    assert browser.errors == []


def test_maps_are_walked_by_arrow_keys(browser: Browser, tmp_path: Path) -> None:
    shown_in(browser, page(made(), ["a"] * 300, SETTINGS, "code"), tmp_path / "page.html", 800)
    browser.run("document.querySelector('#grid button').focus()")
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        browser.press(key)
    assert browser.run("document.activeElement.ariaLabel").startswith("layer 1, head 1: pattern_1, 21 %")
    assert browser.run("document.getElementById('shown').textContent") == "Layer 1, head 1: pattern_1"
    assert browser.run("document.querySelectorAll('#grid button[tabindex=\"0\"]').length") == 1


def test_the_measure_under_the_maps_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    shown_in(browser, page(made(), ["a"] * 300, SETTINGS, "code"), tmp_path / "page.html", 1600)
    first = "document.querySelector('#grid button b').textContent"
    assert browser.run(first) == "20 %"
    browser.run("measure.value = 'mass'; measure.dispatchEvent(new Event('change'))")
    assert browser.run(first) == "90 %"
