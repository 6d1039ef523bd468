"use strict";
// What the scripts of all pages share.
const data = JSON.parse(document.getElementById("data").textContent);
const el = id => document.getElementById(id);

/** An element with attributes and children; of a child that is a string, the text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  node.append(...children);
  return node;
}

/** An element of a drawing, with attributes and its text. */
function svg(tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Fills a <dl> with [name, value] pairs; a value may be an element. */
function fillFacts(list, facts) {
  list.replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

const number = value => value.toLocaleString("en");
const seconds = s => s >= 10 ? `${s.toFixed(1)} s` : s >= 1 ? `${s.toFixed(2)} s` : s > 0 ? `${Number((1000 * s).toPrecision(3))} ms` : "0 s";

// Characters that cannot be seen: controls, and those that change the direction of what follows or take no room.
const HIDDEN = /[\n\t\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]/gu;
const CONTROL = 0x2400;

/** The sign for such a character. */
function signOf(character) {
  const code = character.codePointAt(0);
  if (character === "\n") return "\u21b5";
  if (character === "\t") return "\u21e5";
  if (code < 0x20) return String.fromCodePoint(CONTROL + code);
  if (code === 0x7f) return "\u2421";
  return `\u27e8${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
}

/** The text on one line, with a sign for each character that cannot be seen. */
const inLine = text => text.replace(HIDDEN, signOf);
const quoted = text => text === "" ? "(no text)" : `\u201c${inLine(text)}\u201d`;

/** Puts a text into an element so that every character shows; what is copied from it is the text itself. */
function spell(node, text) {
  let end = 0;
  for (const found of text.matchAll(HIDDEN)) {
    node.append(text.slice(end, found.index));
    end = found.index + found[0].length;
    const breaks = found[0] === "\n" || found[0] === "\t";
    const sign = make("span", { class: breaks ? "sign" : "sign hides", "data-sign": signOf(found[0]) });
    if (!breaks) sign.append(make("i", {}, found[0]));
    node.append(sign);
    if (breaks) node.append(found[0]);
  }
  node.append(text.slice(end));
  return node;
}

const pen = document.createElement("canvas").getContext("2d");
pen.font = '12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace';
const SIGNS = new Intl.Segmenter("en", { granularity: "grapheme" });

/** A text cut to so many pixels, with its spaces marked, and its width. */
function fitted(text, most) {
  const all = [...SIGNS.segment(text === "" ? "\u2205" : inLine(text).replace(/ /g, "\u00b7"))].map(part => part.segment);
  let shown = all.join("");
  for (let left = all.length; left > 1 && pen.measureText(shown).width > most; left--) shown = all.slice(0, left - 1).join("") + "\u2026";
  return [shown, Math.min(Math.ceil(pen.measureText(shown).width), most)];
}

/** Calls draw(width) now and whenever the width of an element changes. */
function onWidth(node, draw) {
  let last = -1;
  new ResizeObserver(() => {
    const width = node.clientWidth;
    if (width !== last && width > 0) draw(last = width);
  }).observe(node);
}
