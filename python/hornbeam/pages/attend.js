// What each layer and head reads of a text: a map a head, and one of them large.

const { pieces, tokens, side, layers } = data;
const count = Math.ceil(tokens / side);
const MEASURES = { share: "keys read", mass: "probability covered", top_k: "heaviest keys read" };
/** Characters of a text that is shown beside the map. */
const SHOWN = 600;
const buttons = [];
let shown = null;
let place = null;

const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
const rangeOf = cell => [cell * side, Math.min((cell + 1) * side, tokens) - 1];
const named = ([first, last]) => first === last ? number(first) : `${number(first)} to ${number(last)}`;

/** The cells of a map, row after row up to the diagonal: a byte each, packed into base64. */
function cellsOf(head) {
  head.cells ??= Uint8Array.from(atob(head.map), character => character.charCodeAt(0));
  return head.cells;
}
const cellAt = (head, row, key) => cellsOf(head)[row * (row + 1) / 2 + key];

/** Red, green and blue of a colour of the style. */
function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const long = text.length === 4 ? text.replace(/[0-9a-f]/gi, "$&$&") : text;
  return [1, 3, 5].map(at => parseInt(long.slice(at, at + 2), 16));
}

/** Draws a map, a pixel a cell; the style enlarges it. */
function draw(canvas, head, [low, high]) {
  canvas.width = canvas.height = count;
  const context = canvas.getContext("2d"), image = context.createImageData(count, count);
  for (let row = 0; row < count; row++) for (let key = 0; key <= row; key++) {
    const share = cellAt(head, row, key) / 255, at = 4 * (row * count + key);
    for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + share * (high[c] - low[c]);
    image.data[at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function drawAll() {
  const colours = [colour("--heat-low"), colour("--heat-high")];
  for (const button of buttons) draw(button.querySelector("canvas"), button.head, colours);
  if (shown) draw(el("large"), shown.head, colours);
}

/** Shows a head large. */
function show(button) {
  shown = button;
  const { head, layer, number: index } = button;
  for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  el("shown").textContent = `Layer ${layer}, head ${index}: ${head.pattern}`;
  fillFacts(el("facts"), Object.entries(MEASURES).map(([name, text]) => [text, percent(head[name])]));
  el("large").setAttribute("aria-label", `${el("shown").textContent}, ${percent(head.share)} of the keys read`);
  draw(el("large"), head, [colour("--heat-low"), colour("--heat-high")]);
  point(place);
}

/** Marks a cell of the large map and says what it is; null marks none. */
function point(cell) {
  place = cell;
  el("cursor").hidden = el("texts").hidden = cell === null;
  if (cell === null) {
    const cellSize = side === 1 ? "one token" : `${number(side)} by ${number(side)} tokens`;
    el("cell").textContent = `A cell of the map is ${cellSize}. Point at one to see which rows read which keys; with the arrow keys, too.`;
    return;
  }
  const [row, key] = cell, share = cellAt(shown.head, row, key) / 255;
  Object.assign(el("cursor").style, { left: `${100 * key / count}%`, top: `${100 * row / count}%`, width: `${100 / count}%`, height: `${100 / count}%` });
  el("cell").textContent = `Rows ${named(rangeOf(row))} read ${percent(share)} of what they may of keys ${named(rangeOf(key))}.`;
  for (const [id, at] of [["row-text", row], ["key-text", key]]) {
    const [first, last] = rangeOf(at);
    el(id).replaceChildren();
    spell(el(id), pieces.slice(first, last + 1).join("").slice(0, SHOWN));
  }
}

function listenToMap() {
  const canvas = el("large");
  const follow = event => {
    const box = canvas.getBoundingClientRect();
    const at = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    const [row, key] = at.map(part => Math.min(Math.max(Math.floor(part * count), 0), count - 1));
    point(key <= row ? [row, key] : null);
  };
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("pointerdown", follow);
  canvas.addEventListener("keydown", event => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    if (place === null) return point([count - 1, 0]);
    const [row, key] = [place[0] + step[0], place[1] + step[1]];
    if (row >= 0 && row < count && key >= 0 && key <= row) point([row, key]);
  });
  addEventListener("keydown", event => { if (event.key === "Escape") point(null); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}

/** A row of maps for each layer; one of all maps is in the order of the Tab key, arrows go on from it. */
function drawGrid() {
  for (const layer of layers) {
    const row = make("div", { class: "heads" });
    if (layer.why) row.append(make("span", { class: "why" }, `read as ever: ${layer.why}`));
    layer.heads.forEach((head, index) => {
      const button = make("button", { type: "button", "aria-pressed": "false", tabindex: buttons.length ? -1 : 0 }, make("canvas"), make("span", {}, make("b")), make("span", {}, head.pattern));
      button.title = `layer ${layer.layer}, head ${index}: ${head.pattern}, ${percent(head.share)} of the keys read, ${percent(head.mass)} of the probability covered`;
      button.setAttribute("aria-label", button.title);
      Object.assign(button, { head, layer: layer.layer, number: index });
      button.addEventListener("click", () => pick(button));
      button.addEventListener("keydown", moveFocus);
      buttons.push(button);
      row.append(button);
    });
    el("grid").append(make("div", { class: "layer" }, make("span", {}, layer.layer), row));
  }
}

/** Shows a head, and brings the large map into sight where the screen is too narrow for both. */
function pick(button) {
  show(button);
  if (el("map").getBoundingClientRect().bottom < 0) el("one").scrollIntoView({ block: "start" });
}

function moveFocus(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: data.num_heads, ArrowUp: -data.num_heads }[event.key];
  const next = buttons[buttons.indexOf(event.currentTarget) + step];
  if (!next) return;
  event.preventDefault();
  event.currentTarget.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** Writes the chosen measure under each map. */
function writeMeasure() {
  for (const button of buttons) button.querySelector("b").textContent = percent(button.head[el("measure").value]);
}

function showFacts() {
  el("title").textContent = `${data.title}: what attention reads`;
  document.title = el("title").textContent;
  const heads = layers.flatMap(layer => layer.heads);
  const mean = name => heads.reduce((sum, head) => sum + head[name], 0) / Math.max(heads.length, 1);
  const facts = [["text", `${number(tokens)} tokens`], ["heads", number(heads.length)]];
  if (heads.length) {
    facts.push(["keys read", percent(mean("share"))], ["probability covered", percent(mean("mass"))]);
    facts.push(["least of a head", percent(Math.min(...heads.map(head => head.mass)))]);
  }
  const patterns = {};
  for (const head of heads) patterns[head.pattern] = (patterns[head.pattern] ?? 0) + 1;
  fillFacts(el("figures"), facts);
  fillFacts(el("settings"), [...Object.entries(data.settings), ...Object.entries(patterns).map(([name, times]) => [`heads with ${name}`, number(times)])]);
}

function start() {
  for (const [name, text] of Object.entries(MEASURES)) el("measure").append(make("option", { value: name }, text));
  el("measure").addEventListener("change", writeMeasure);
  showFacts();
  drawGrid();
  writeMeasure();
  listenToMap();
  el("one").hidden = !buttons.length;
  if (buttons.length) { drawAll(); show(buttons[0]); }
}

start();
