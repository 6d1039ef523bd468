"""A page that shows what each layer and head kept of a text: one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kept", "kept_by", "page"]


@dataclass(frozen=True)
class Kept:
    """What a recipe keeps of one text: ``planes[layer][head]`` are positions, ascending."""

    token_ids: list[int]
    planes: list[list[NDArray[np.int32]]]
    kv_bytes_before: int
    kv_bytes: int


def kept_by(lm: Any, token_ids: list[int], recipe: Any) -> Kept:
    """Runs the prompt through the model and the recipe over its cache; writes nothing."""
    from hornbeam.engine.options import Options

    [request] = lm.engine.submit_all([token_ids], Options.greedy(1, recipe), releases=True)
    keeper = request.keeper
    assert keeper is not None
    keeper.record = {}
    generation = request.result()
    heads = lm.tree.num_kv_heads
    everything = [np.arange(len(token_ids), dtype=np.int32)] * lm.tree.num_planes
    planes = keeper.record.get(request.index, everything)
    stats = generation.stats
    return Kept(
        token_ids,
        [planes[begin : begin + heads] for begin in range(0, len(planes), heads)],
        stats.kv_bytes_before,
        stats.kv_bytes,
    )


def page(kept: Kept, pieces: list[str], recipe: str, budget: str, title: str) -> str:
    """The HTML of what was kept; ``pieces`` are the texts of the tokens."""
    count = len(kept.token_ids)
    masks = []
    for layer in kept.planes:
        row = []
        for positions in layer:
            mask = np.zeros(count, bool)
            mask[positions] = True
            row.append(base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode())
        masks.append(row)
    share = sum(len(p) for layer in kept.planes for p in layer) / max(
        count * sum(len(layer) for layer in kept.planes), 1
    )
    facts = [f"{count:,} tokens", f"{share:.1%} of keys and values kept"]
    if kept.kv_bytes:
        facts.append(
            f"{kept.kv_bytes_before / 1e6:,.1f} MB of pages before, {kept.kv_bytes / 1e6:,.1f} MB after"
        )
    data = json.dumps({"pieces": pieces, "masks": masks}).replace("</", "<\\/")
    return (
        _PAGE.replace("@TITLE@", html.escape(title))
        .replace("@RECIPE@", html.escape(f"{recipe}, budget {budget}"))
        .replace("@FACTS@", html.escape(" · ".join(facts)))
        .replace("@DATA@", data)
    )


# ruff: noqa: E501
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@: what the cache keeps</title>
<style>
:root { --ink: #1d1d1f; --paper: #fff; --soft: #6b6b70; --line: #dcdce0; --heat: 234, 110, 20; --pick: #1456c8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --paper: #17181b; --soft: #a0a0a8; --line: #34353a; --heat: 240, 120, 30; --pick: #7fb0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
header { padding: 1.2rem 1.5rem .8rem; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.25rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--soft); }
main { display: flex; gap: 1.5rem; padding: 1rem 1.5rem 2rem; align-items: flex-start; }
aside { flex: 0 0 19rem; position: sticky; top: 1rem; max-height: calc(100vh - 2rem); overflow: auto; }
section { flex: 1 1 0; min-width: 0; }
h2 { font-size: .95rem; margin: 0 0 .4rem; }
.note { color: var(--soft); font-size: .85rem; margin: 0 0 .6rem; }
.grid { display: grid; grid-template-columns: auto 1fr; gap: 2px 8px; align-items: center; font-size: .75rem; }
.grid > span { color: var(--soft); text-align: right; font-variant-numeric: tabular-nums; }
.heads { display: flex; gap: 2px; min-width: 0; }
.heads button { flex: 1 1 0; min-width: 3px; height: 20px; padding: 0; border: 1px solid var(--line);
  border-radius: 3px; color: inherit; font: inherit; cursor: pointer; overflow: hidden; white-space: nowrap; }
.heads button:focus-visible, .heads button[aria-pressed=true] { outline: 2px solid var(--pick); outline-offset: 0; }
.text { font: 15px/1.75 ui-serif, Georgia, serif; white-space: pre-wrap; overflow-wrap: anywhere; }
.text span { border-radius: 2px; padding: 1px 0; }
.strip { width: 100%; height: 34px; display: block; border: 1px solid var(--line); border-radius: 4px;
  margin-bottom: .8rem; image-rendering: pixelated; }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .8rem; color: var(--soft); margin-bottom: .6rem; }
.scale i { flex: 0 1 10rem; height: 10px; border-radius: 3px; border: 1px solid var(--line);
  background: linear-gradient(90deg, rgba(var(--heat), 0), rgba(var(--heat), .85)); }
#all { margin-bottom: .6rem; border: 1px solid var(--line); border-radius: 4px; background: none; color: inherit;
  font: inherit; font-size: .85rem; padding: .2rem .7rem; cursor: pointer; }
#shown { font-weight: 600; }
@media (max-width: 900px) {
  main { flex-direction: column; padding: 1rem; }
  aside { flex: none; position: static; width: 100%; max-height: 16rem; }
  section { width: 100%; flex: none; }
}
</style>
</head>
<body>
<header><h1>@TITLE@</h1><p>@RECIPE@ · @FACTS@</p></header>
<main>
<aside>
<h2>Layers and heads</h2>
<p class="note">A cell is a key-value head; the stronger, the more of the text it kept. Pick one to see its own tokens.</p>
<button id="all" type="button">All heads</button>
<div class="grid" id="grid"></div>
</aside>
<section>
<h2>The text: <span id="shown"></span></h2>
<div class="scale"><span id="low"></span><i></i><span id="high"></span></div>
<canvas class="strip" id="strip" height="1" aria-label="kept tokens from the first to the last"></canvas>
<div class="text" id="text"></div>
</section>
</main>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const {pieces, masks} = JSON.parse(document.getElementById("data").textContent);
const count = pieces.length, byId = id => document.getElementById(id);
const bits = masks.map(layer => layer.map(text => {
  const raw = atob(text), out = new Uint8Array(count);
  for (let i = 0; i < count; i++) out[i] = raw.charCodeAt(i >> 3) >> (i & 7) & 1;
  return out;
}));
const planes = bits.flat(), total = new Uint32Array(count);
for (const plane of planes) for (let i = 0; i < count; i++) total[i] += plane[i];
const spans = pieces.map(piece => {
  const span = document.createElement("span");
  span.textContent = piece;
  return span;
});
byId("text").append(...spans);
const heat = getComputedStyle(document.documentElement).getPropertyValue("--heat");
function show(values, most, label, what) {
  byId("shown").textContent = label;
  byId("low").textContent = what[0];
  byId("high").textContent = what[1];
  const canvas = byId("strip"), context = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.min(count, 2000));
  const image = context.createImageData(canvas.width, 1), [r, g, b] = heat.split(",").map(Number);
  for (let x = 0; x < canvas.width; x++) {
    const from = Math.floor(x * count / canvas.width), to = Math.max(from + 1, Math.floor((x + 1) * count / canvas.width));
    let best = 0;
    for (let i = from; i < to; i++) best = Math.max(best, values[i]);
    image.data.set([r, g, b, 255 * .9 * best / most], 4 * x);
  }
  context.putImageData(image, 0, 0);
  spans.forEach((span, i) => {
    span.style.backgroundColor = values[i] ? `rgba(${heat}, ${.85 * values[i] / most})` : "";
    span.title = `token ${i}: kept by ${total[i]} of ${planes.length} heads`;
  });
}
const buttons = [];
function pick(button, draw) {
  buttons.forEach(other => other.setAttribute("aria-pressed", String(other === button)));
  draw();
}
const all = () => show(total, planes.length, `kept by how many of ${planes.length} heads`, ["none", "all"]);
byId("all").onclick = () => pick(null, all);
bits.forEach((layer, l) => {
  const name = document.createElement("span"), row = document.createElement("div");
  name.textContent = l;
  row.className = "heads";
  layer.forEach((plane, h) => {
    const kept = plane.reduce((sum, bit) => sum + bit, 0), share = count ? kept / count : 0;
    const button = document.createElement("button");
    button.type = "button";
    button.title = `layer ${l}, head ${h}: ${kept} of ${count} tokens`;
    button.setAttribute("aria-label", button.title);
    button.textContent = layer.length <= 8 ? (share * 100).toFixed(0) + " %" : "";
    button.style.backgroundColor = `rgba(${heat}, ${(.05 + .8 * share).toFixed(3)})`;
    button.onclick = () => pick(button, () => show(plane, 1, `layer ${l}, head ${h}`, ["dropped", "kept"]));
    buttons.push(button);
    row.append(button);
  });
  byId("grid").append(name, row);
});
all();
</script>
</body>
</html>
"""
