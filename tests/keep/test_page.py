"""The heat map of what was kept: what it holds, and that it loads and fits in a browser."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

import hornbeam as hb
from hornbeam.cli.keep_page import Kept, kept_by, page
from tests import models

SETTINGS = {"model": "tiny", "recipe": "ada_kv", "budget": "20%"}


@pytest.fixture(scope="module")
def kept():
    lm = hb.LM(models.llama())
    prompt = models.prompt(120, 3)[0].tolist()
    found = kept_by(lm, prompt, hb.recipes.ada_kv("20%", window=8))
    assert lm.tree.stats()["branches"] == 0
    return found


def test_what_is_kept_adds_up(kept):
    assert len(kept.planes) == 2
    assert [len(layer) for layer in kept.planes] == [2, 2]
    assert sum(len(positions) for layer in kept.planes for positions in layer) == int(0.2 * 4 * 120)
    assert all(
        positions[-8:].tolist() == list(range(112, 120)) for layer in kept.planes for positions in layer
    )
    assert 0 < kept.kv_bytes < kept.kv_bytes_before


def test_a_budget_that_holds_everything_shows_everything():
    found = kept_by(hb.LM(models.llama()), [3, 4, 5], hb.recipes.knorm(10))
    assert all(positions.tolist() == [0, 1, 2] for layer in found.planes for positions in layer)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_holds_the_sets_and_their_ranges(kept):
    pieces = ["</script><b>&amp;"] + [f" word{i}" for i in range(119)]
    data = data_of(page(kept, pieces, SETTINGS, "a <i> title"))
    assert data["pieces"] == pieces
    assert (data["title"], data["settings"]) == ("a <i> title", SETTINGS)
    masks = []
    for layer, packed in zip(kept.planes, data["masks"], strict=True):
        for positions, mask in zip(layer, packed, strict=True):
            bits = np.unpackbits(np.frombuffer(base64.b64decode(mask), np.uint8), bitorder="little")
            assert np.flatnonzero(bits).tolist() == positions.tolist()
            masks.append(bits[:120].astype(int))
    assert data["cells"] == [min(mask.mean() for mask in masks), max(mask.mean() for mask in masks)]
    assert 0 < data["cells"][0] < data["cells"][1] < 1, "heads differ, so that a scale says something"
    assert data["tokens"] == [sum(masks).min(), sum(masks).max()]
    assert (data["kv_bytes_before"], data["kv_bytes"]) == (kept.kv_bytes_before, kept.kv_bytes)


@pytest.fixture(scope="module")
def large():
    """What 30 layers of three heads might keep of a text of 3,000 tokens: more, the deeper they lie."""
    rng = np.random.default_rng(0)
    planes = [
        [np.flatnonzero(rng.random(3000) < 0.05 + 0.01 * layer).astype(np.int32) for _ in range(3)]
        for layer in range(30)
    ]
    pieces = ["def", " f", "(", "x", "):", "\n", "\t", " return", " \ud83d", "\0", "שלום", "", "x" * 60]
    pieces = [pieces[i % len(pieces)] for i in range(3000)]
    return Kept(list(range(3000)), planes, 90_000_000, 18_000_000), pieces


def shown_in(browser, text, file, width, scheme="light"):
    browser.errors.clear()
    browser.requests.clear()
    file.write_text(text, encoding="utf-8")
    browser.prefer(scheme)
    browser.open(file, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_the_page_loads_and_does_not_overflow(kept, browser, tmp_path, width, scheme):
    pieces = [f" word{i}" if i % 9 else "\n" + "long" * 60 for i in range(120)]
    title = "</title><script>throw 1</script> " + "x" * 300 + "\udc80"
    shown_in(browser, page(kept, pieces, SETTINGS, title), tmp_path / "page.html", width, scheme)
    assert browser.sticking_out() == []
    assert browser.run("document.getElementById('text').textContent") == "".join(pieces)
    union = {int(p) for layer in kept.planes for positions in layer for p in positions}
    lit = "[...document.querySelectorAll('#text > span')].filter(s => s.style.backgroundColor).length"
    assert browser.run(lit) == len(union)
    assert browser.run("document.querySelectorAll('#grid button').length") == 4
    assert browser.run("document.getElementById('settings').textContent") == "modeltinyrecipeada_kvbudget20%"
    family = "getComputedStyle(document.getElementById('text')).fontFamily"
    assert "monospace" in browser.run(family), "code is aligned"
    browser.run("document.querySelectorAll('#grid button')[3].click()")
    assert browser.run(lit) == len(kept.planes[1][1])
    browser.press("Escape")
    assert browser.run(lit) == len(union)
    assert browser.errors == []
    assert browser.requests == []


@pytest.mark.parametrize("width", [800, 1600])
def test_all_layers_are_seen_at_once(large, browser, tmp_path, width):
    shown_in(browser, page(*large, SETTINGS, "code"), tmp_path / "page.html", width)
    hidden = browser.run("""[...document.querySelectorAll('.layer')].filter(layer => {
      const box = layer.getBoundingClientRect();
      const panel = document.getElementById('layers').getBoundingClientRect();
      return box.top < panel.top || box.bottom > panel.bottom || box.bottom > innerHeight; }).length""")
    assert browser.run("document.querySelectorAll('.layer').length") == 30
    assert hidden == 0
    assert browser.sticking_out() == []


def test_cells_are_scaled_to_the_range_that_occurs(large, browser, tmp_path):
    shown_in(browser, page(*large, SETTINGS, "code"), tmp_path / "page.html", 1600)
    sizes = [len(positions) / 3000 for layer in large[0].planes for positions in layer]
    ends = browser.run("['least', 'most'].map(id => document.getElementById(id).textContent)")
    assert ends == [f"{100 * min(sizes):.1f} %", f"{100 * max(sizes):.0f} %"]
    colours = browser.run("[...document.querySelectorAll('#grid button')].map(b => b.style.backgroundColor)")
    assert " 0.0%" in colours[int(np.argmin(sizes))]
    assert " 100.0%" in colours[int(np.argmax(sizes))]


def test_heads_that_keep_alike_have_no_scale(browser, tmp_path):
    planes = [[np.arange(4, dtype=np.int32)] * 2] * 2
    text = page(Kept([1, 2, 3, 4], planes, 0, 0), list("abcd"), SETTINGS, "all")
    shown_in(browser, text, tmp_path / "page.html", 800)
    assert data_of(text)["cells"] == [1, 1]
    assert browser.run("document.getElementById('least').textContent") == "each head keeps"
    assert browser.run("document.getElementById('low').textContent") == "each token kept by"
    assert browser.run("[...document.querySelectorAll('.scale i')].map(i => i.offsetWidth)") == [0, 0]
    assert browser.errors == []


@pytest.mark.parametrize("width", [400, 800, 1600])
def test_the_strip_moves_the_text_and_says_where_one_is(large, browser, tmp_path, width):
    shown_in(browser, page(*large, SETTINGS, "code"), tmp_path / "page.html", width)
    browser.run("document.getElementById('strip').scrollIntoView()")
    box = browser.run("(b => [b.left, b.width, b.top + b.height / 2])(strip.getBoundingClientRect())")
    left, wide, middle = box
    first = "Number(document.getElementById('strip').getAttribute('aria-valuenow'))"
    seen = []
    for share in (0.3, 0.8):
        browser.drag([(left + 0.1 * wide, middle), (left + share * wide, middle)])
        browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seen.append(browser.run(first))
        # What the strip says is what is on the screen, and its middle lies under the pointer.
        shown = browser.run("""(() => {
          const top = document.getElementById('over').getBoundingClientRect().bottom;
          const boxes = spans.map(span => span.getBoundingClientRect());
          const end = boxes.filter(box => box.top < innerHeight).length;
          return [boxes.findIndex(box => box.bottom > top), end]; })()""")
        mark = browser.run(
            "(b => [b.left, b.right])(document.getElementById('window').getBoundingClientRect())"
        )
        assert seen[-1] == shown[0]
        assert mark == pytest.approx([left + 1 + at / 3000 * (wide - 2) for at in shown], abs=4)
        assert sum(mark) / 2 == pytest.approx(left + share * wide, abs=4 + 0.25 * (mark[1] - mark[0]))
    assert seen[0] < seen[1]
    browser.run("document.getElementById('strip').focus()")
    browser.press("ArrowLeft")
    assert browser.run(first) < seen[1]
    browser.press("Home")
    assert browser.run(first) == 0
    assert browser.errors == []


def test_cells_are_walked_by_arrow_keys(large, browser, tmp_path):
    shown_in(browser, page(*large, SETTINGS, "code"), tmp_path / "page.html", 800)
    browser.run("document.querySelector('#grid button').focus()")
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        browser.press(key)
    assert browser.run("document.activeElement.ariaLabel").startswith("layer 1, head 1:")
    assert "layer 1, head 1" in browser.run("document.getElementById('shown').textContent")
    assert browser.run("document.querySelectorAll('#grid button[tabindex=\"0\"]').length") == 1
