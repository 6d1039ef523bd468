"""The heat map of what was kept: what it holds, and that it loads and fits in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import hornbeam as hb
from hornbeam.cli.keep_page import kept_by, page
from tests import models

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


def test_the_page_holds_the_sets_and_escapes_the_text(kept):
    pieces = ["</script><b>&amp;"] + [f" word{i}" for i in range(119)]
    text = page(kept, pieces, "ada_kv", "20%", "a <i> title")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    data = json.loads(found[1])
    assert data["pieces"] == pieces
    for layer, masks in zip(kept.planes, data["masks"], strict=True):
        for positions, mask in zip(layer, masks, strict=True):
            bits = np.unpackbits(np.frombuffer(base64.b64decode(mask), np.uint8), bitorder="little")
            assert np.flatnonzero(bits).tolist() == positions.tolist()
    assert "a &lt;i&gt; title" in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [800, 1600])
def test_the_page_loads_and_does_not_overflow(kept, tmp_path, width):
    pieces = [f" word{i}" if i % 9 else "\n" + "long" * 60 for i in range(120)]
    text = page(kept, pieces, "ada_kv", "20%", "a title " + "x" * 300)
    # The page reports its own errors and sizes in its title, which --dump-dom shows.
    probe = """<script>
    const errors = [];
    window.onerror = message => errors.push(message);
    window.onload = () => { document.body.dataset.report = JSON.stringify({
      errors, over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      spans: document.querySelectorAll("#text span").length,
      lit: [...document.querySelectorAll("#text span")].filter(s => s.style.backgroundColor).length,
      cells: document.querySelectorAll("#grid button").length}); };
    </script>"""
    file = tmp_path / "page.html"
    file.write_text(text.replace("<head>", "<head>" + probe), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    shown = subprocess.run(
        [*command, f"--window-size={width},900", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    report = json.loads(re.search(r'data-report="([^"]*)"', shown)[1].replace("&quot;", '"'))
    union = {int(p) for layer in kept.planes for positions in layer for p in positions}
    assert report == {"errors": [], "over": 0, "spans": 120, "lit": len(union), "cells": 4}
