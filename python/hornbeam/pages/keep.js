// What each layer and head kept of a text: one map is shown at a time, over the text and over the strip.

const { pieces, masks, cells, tokens } = data;
const count = pieces.length;
const heads = masks.map(layer => layer.map(readMask));
const planes = heads.flat();
const total = new Uint32Array(count);
for (const plane of planes) for (let i = 0; i < count; i++) total[i] += plane[i];
const spans = pieces.map((piece, i) => {
  const span = spell(make("span"), piece);
  span.title = `token ${number(i)}: kept by ${total[i]} of ${planes.length} heads`;
  return span;
});
const buttons = [];
let shown = null;

/** One byte a token, of a mask that is packed into base64, the lowest bit first. */
function readMask(text) {
  const raw = atob(text), out = new Uint8Array(count);
  for (let i = 0; i < count; i++) out[i] = raw.charCodeAt(i >> 3) >> (i & 7) & 1;
  return out;
}

const percent = share => `${(100 * share).toFixed(100 * share < 9.95 ? 1 : 0)} %`;
/** Shares that are alike but for a token more or less, which budgets cannot divide evenly. */
const areAlike = ([low, high]) => high - low < 0.005;
/** Where a value lies in the range that occurs, from 0 to 1; all alike are in the middle. */
const place = (value, [low, high]) => areAlike([low, high]) ? 0.5 : (value - low) / (high - low);
const heat = share => `color-mix(in oklab, var(--heat-high) ${(100 * share).toFixed(1)}%, var(--heat-low))`;

/** Names the ends of a scale; one whose ends are alike is a sentence without colours. */
function nameScale(low, high, texts, isFlat) {
  [low.textContent, high.textContent] = texts;
  low.parentElement.classList.toggle("flat", isFlat);
}

/** Shows a number for each token. `texts` say the lowest and the highest of them. */
function show(map) {
  shown = map;
  el("shown").textContent = map.title;
  nameScale(el("low"), el("high"), map.texts, map.range[0] === map.range[1]);
  spans.forEach((span, i) => { span.style.backgroundColor = map.values[i] > map.range[0] || map.range[0] === map.range[1] ? heat(place(map.values[i], map.range)) : ""; });
  drawStrip();
}

function showAll() {
  const [low, high] = tokens, of = planes.length;
  const name = value => value === 0 ? "no head" : value === of ? `all ${of}` : `${value} of ${of} heads`;
  show({ title: "The text, by how many heads kept each token", values: total, range: tokens, texts: low === high ? ["each token kept by", name(high)] : [name(low), name(high)] });
  press(null);
}

function showHead(layer, head, button) {
  const values = heads[layer][head], kept = values.reduce((sum, bit) => sum + bit, 0);
  show({ title: `The text in layer ${layer}, head ${head}: ${number(kept)} of ${number(count)} tokens kept`, values, range: [0, 1], texts: ["dropped", "kept"] });
  press(button);
}

function press(button) {
  for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  el("all").setAttribute("aria-pressed", String(button === null));
}

/** The strip: the text from its first token to its last, a column the highest of its tokens. */
function drawStrip() {
  const canvas = el("strip").querySelector("canvas"), context = canvas.getContext("2d");
  const width = Math.max(1, Math.round(el("strip").clientWidth * devicePixelRatio));
  canvas.width = width;
  canvas.height = 1;
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--heat-high").trim();
  for (let x = 0; x < width; x++) {
    const from = Math.floor(x * count / width), to = Math.max(from + 1, Math.floor((x + 1) * count / width));
    let best = shown.range[0];
    for (let i = from; i < to && i < count; i++) best = Math.max(best, shown.values[i]);
    context.globalAlpha = place(best, shown.range);
    context.fillRect(x, 0, 1, 1);
  }
}

/** The first token for which a test of its box holds; boxes follow each other down the page. */
function firstToken(test) {
  let low = 0, high = count;
  while (low < high) {
    const middle = low + high >> 1;
    if (test(spans[middle].getBoundingClientRect())) high = middle; else low = middle + 1;
  }
  return low;
}

/** Marks on the strip which tokens are on the screen. */
function showWhere() {
  if (!count) return;
  const top = el("over").getBoundingClientRect().bottom;
  const first = Math.min(firstToken(box => box.bottom > top), count - 1), end = Math.max(firstToken(box => box.top >= innerHeight), first + 1);
  el("window").style.left = `${100 * first / count}%`;
  el("window").style.width = `${100 * (end - first) / count}%`;
  el("where").textContent = `tokens ${number(first)} to ${number(end - 1)} of ${number(count)} on the screen`;
  el("strip").setAttribute("aria-valuenow", first);
  el("strip").setAttribute("aria-valuetext", el("where").textContent);
}

/** Scrolls so that a token is the first below the strip, or as near to that as the page's end allows. */
function go(token) {
  if (!count) return;
  const box = spans[Math.min(Math.max(Math.round(token), 0), count - 1)].getBoundingClientRect();
  const over = el("over");
  // The strip sticks to the top once the text is scrolled to.
  scrollTo({ top: scrollY + box.top - over.offsetHeight - 12, behavior: "instant" });
  showWhere();
}

function listenToStrip() {
  const strip = el("strip");
  // What is on the screen is moved so that its middle lies under the pointer.
  const follow = event => {
    const box = strip.getBoundingClientRect(), visible = el("window").offsetWidth / box.width;
    go(((event.clientX - box.left) / box.width - visible / 2) * count);
  };
  strip.addEventListener("pointerdown", event => { strip.setPointerCapture(event.pointerId); follow(event); });
  strip.addEventListener("pointermove", event => { if (strip.hasPointerCapture(event.pointerId)) follow(event); });
  strip.addEventListener("keydown", event => {
    const first = Number(strip.getAttribute("aria-valuenow")), step = Math.max(1, Math.round(count / 50));
    const to = { ArrowRight: first + step, ArrowUp: first - step, ArrowLeft: first - step, ArrowDown: first + step, PageDown: first + 5 * step, PageUp: first - 5 * step, Home: 0, End: count - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });
  addEventListener("scroll", showWhere, { passive: true });
  addEventListener("resize", showWhere);
  onWidth(strip, () => { drawStrip(); showWhere(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawStrip);
}

/** A row of cells for each layer; one of all cells is in the order of the Tab key, arrows go on from it. */
function drawGrid() {
  el("layers").style.setProperty("--layers", heads.length);
  heads.forEach((layer, l) => {
    const row = make("div", { class: "heads" });
    layer.forEach((plane, h) => {
      const kept = plane.reduce((sum, bit) => sum + bit, 0), share = count ? kept / count : 0;
      const title = `layer ${l}, head ${h}: ${number(kept)} of ${number(count)} tokens, ${percent(share)}`;
      const button = make("button", { type: "button", title, "aria-label": title, "aria-pressed": "false", tabindex: buttons.length ? -1 : 0 }, make("span", {}, percent(share).replace(" %", "")));
      button.style.backgroundColor = heat(place(share, cells));
      button.addEventListener("click", () => showHead(l, h, button));
      button.addEventListener("keydown", event => moveFocus(event, l, h));
      buttons.push(button);
      row.append(button);
    });
    el("grid").append(make("div", { class: "layer" }, make("span", {}, l), row));
  });
  nameScale(el("least"), el("most"), areAlike(cells) ? ["each head keeps", percent(cells[1])] : cells.map(percent), areAlike(cells));
}

function moveFocus(event, layer, head) {
  const rows = el("grid").querySelectorAll(".heads");
  const [dl, dh] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [0, 0];
  const next = rows[layer + dl]?.children[head + dh];
  if (!next || next === event.target) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** Marks the heads that kept a token. */
function pickToken(token) {
  spans.forEach((span, i) => span.classList.toggle("picked", i === token));
  planes.forEach((plane, i) => buttons[i].classList.toggle("holds", token >= 0 && plane[token] === 1));
}

function showFacts() {
  el("title").textContent = `${data.title}: what the cache keeps`;
  document.title = el("title").textContent;
  const kept = planes.reduce((sum, plane) => sum + plane.reduce((a, b) => a + b, 0), 0);
  const megabytes = bytes => `${(bytes / 1e6).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} MB`;
  const facts = [["text", `${number(count)} tokens`], ["keys and values kept", percent(kept / Math.max(count * planes.length, 1))]];
  if (data.kv_bytes) facts.push(["pages of the cache", `${megabytes(data.kv_bytes_before)} \u2192 ${megabytes(data.kv_bytes)}`]);
  fillFacts(el("figures"), facts);
  fillFacts(el("settings"), Object.entries(data.settings));
}

function start() {
  el("text").append(...spans);
  el("strip").setAttribute("aria-valuemax", Math.max(count - 1, 0));
  showFacts();
  drawGrid();
  showAll();
  listenToStrip();
  el("all").addEventListener("click", showAll);
  el("text").addEventListener("click", event => pickToken(spans.indexOf(event.target.closest("#text > span"))));
  addEventListener("keydown", event => { if (event.key === "Escape") { showAll(); pickToken(-1); } });
}

start();
