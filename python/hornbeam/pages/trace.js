// The trace of a call: one sequence is open, and of it one step.

const kinds = kindsOf(data.sequences);
let sequence = null, current = -1;


const rate = value => value < 100 ? value.toFixed(1) : number(Math.round(value));

/** What a sequence is called where there are several: its number and how its text begins. */
function sequenceName(told, index) {
  const text = told.tokens.slice(0, 24).map(token => token.text).join("");
  return `${index + 1}: ${inLine(text).slice(0, 70)}`;
}

function showFigures() {
  const { tokens, steps } = sequence;
  const drafted = steps.reduce((sum, step) => sum + step.draft.length, 0);
  const accepted = steps.reduce((sum, step) => sum + step.accepted.length, 0);
  const spent = Object.entries(sequence.seconds), decoding = spent.reduce((sum, [phase, s]) => sum + (phase === "prefill" ? 0 : s), 0);
  const small = (value, unit) => { const node = make("span", {}, value, " "); node.append(make("small", {}, unit)); return node; };
  fillFacts(el("figures"), [
    ["emitted", small(number(tokens.length), tokens.length === 1 ? "token" : "tokens")],
    ["speed", sequence.tokens_per_second ? small(rate(sequence.tokens_per_second), "tokens/s") : "\u2013"],
    ["decoding", seconds(decoding)],
    ["prompt", small(number(sequence.prompt_tokens), `tokens in ${seconds(sequence.seconds.prefill ?? 0)}` + (sequence.reused_tokens ? `, ${number(sequence.reused_tokens)} of them cached` : ""))],
    ["steps", small(number(steps.length), steps.length ? `${((tokens.length - 1) / steps.length).toFixed(2)} tokens each` : "")],
    ["accepted", small(number(accepted), `of ${number(drafted)} drafted`)],
    ["ended by", sequence.finish ?? "the caller"],
  ]);
  fillFacts(el("settings"), Object.entries(sequence.settings));
}

function showLegend() {
  const counts = {};
  for (const token of sequence.tokens) counts[token.kind] = (counts[token.kind] ?? 0) + 1;
  const names = { bonus: "target, after accepted tokens", plain: "target, nothing accepted" };
  el("legend").replaceChildren(...kinds.map(kind => {
    const box = make("i");
    box.style.background = fill(kind);
    box.style.borderColor = edge(kind);
    return make("li", counts[kind] ? {} : { class: "none" }, box, `${names[kind] ?? kind} (${number(counts[kind] ?? 0)})`);
  }));
}

/** The prompt whole, or where it is long its end and a button. */
function showPrompt() {
  const box = el("prompt"), text = spell(make("div"), sequence.prompt), frame = make("div", {}, text);
  box.replaceChildren(frame);
  box.classList.add("short");
  const isLong = text.offsetHeight > frame.clientHeight + 2;
  box.classList.toggle("short", isLong);
  if (!isLong) return;
  const button = make("button", { type: "button", "aria-expanded": "false" }, "show the whole prompt");
  button.addEventListener("click", () => {
    const isShort = box.classList.toggle("short");
    button.textContent = isShort ? "show the whole prompt" : "show the end of the prompt";
    button.setAttribute("aria-expanded", String(!isShort));
  });
  box.prepend(button);
}

function showText() {
  el("text").replaceChildren(...sequence.tokens.map(token => {
    const span = spell(make("span", { "data-step": token.step }), token.text);
    span.style.background = fill(token.kind);
    span.title = token.step < 0 ? "given by the pass over the prompt" : `${token.kind}, step ${token.step + 1}`;
    return span;
  }));
}

function openSequence(index) {
  sequence = data.sequences[index];
  el("slide").max = Math.max(sequence.steps.length, 1);
  showFigures();
  showLegend();
  showPrompt();
  showText();
  el("phases").replaceChildren(...drawPhases(sequence.seconds));
  current = sequence.steps.length ? 0 : -1;
  drawAll();
  openStep(current);
}

/** Draws what depends on the width that there is. */
function drawAll() {
  showSteps();
  showTree();
  if (sequence) el("cost").replaceChildren(drawCost(data.curve, sequence.steps, el("cost").clientWidth));
}

function showSteps() {
  if (!sequence) return;
  el("time").replaceChildren(drawSteps(sequence.steps, el("time").clientWidth, openStep));
  markStep();
}

function showTree() {
  const step = sequence?.steps[current];
  el("tree").replaceChildren(...step ? [drawTree(step, el("tree").clientWidth)] : []);
}

function markStep() {
  for (const span of el("text").children) span.classList.toggle("open", current >= 0 && Number(span.dataset.step) === current);
  for (const bar of document.querySelectorAll(".step")) bar.classList.toggle("open", Number(bar.dataset.step) === current);
}

/** Moves a box's own scroll, never the page's, so that a part of it shows. */
function reveal(box, part) {
  if (!part) return;
  const outer = box.getBoundingClientRect(), inner = part.getBoundingClientRect();
  if (inner.top < outer.top || inner.bottom > outer.bottom) box.scrollTop += inner.top - outer.top - outer.height / 3;
  if (inner.left < outer.left || inner.right > outer.right) box.scrollLeft += inner.left - outer.left - outer.width / 3;
}

function openStep(number) {
  const { steps, tokens } = sequence;
  current = Math.min(Math.max(number, 0), steps.length - 1);
  markStep();
  el("back").disabled = current <= 0;
  el("on").disabled = current >= steps.length - 1;
  el("slide").disabled = steps.length < 2;
  el("slide").value = current + 1;
  const step = steps[current];
  el("place").textContent = step ? `step ${current + 1} of ${steps.length}` : "no steps";
  el("which-step").textContent = step ? `step ${current + 1}` : "a step";
  el("about").textContent = step ? aboutStep(step, tokens) : "";
  showTree();
  reveal(el("text"), el("text").querySelector(".open"));
  reveal(el("time"), el("time").querySelector(".step.open"));
}

function aboutStep(step, tokens) {
  const accepted = tokens.slice(step.begin, step.begin + step.accepted.length).map(token => token.text).join("");
  const own = step.emitted > step.accepted.length ? `the target's own ${quoted(step.next)}` : "the end";
  const what = step.accepted.length ? `${step.accepted.length} accepted, ${quoted(accepted)}, then ${own}` : own;
  return `${step.draft.length} drafted; ${what}. Its pass: ${number(step.rows)} ${step.rows === 1 ? "row" : "rows"} in ${seconds(step.seconds)}.`;
}

function listen() {
  el("back").addEventListener("click", () => openStep(current - 1));
  el("on").addEventListener("click", () => openStep(current + 1));
  el("slide").addEventListener("input", event => openStep(Number(event.target.value) - 1));
  el("text").addEventListener("click", event => {
    const token = event.target.closest("#text > span");
    if (token) openStep(Number(token.dataset.step));
  });
  document.addEventListener("keydown", event => {
    if (event.target.matches("select, input") || event.altKey || event.ctrlKey || event.metaKey) return;
    const to = { ArrowLeft: current - 1, ArrowRight: current + 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    openStep(to);
  });
  el("which").addEventListener("change", event => openSequence(Number(event.target.value)));
  onWidth(el("tree"), drawAll);
}

function start() {
  const { model } = data;
  if (model) {
    el("model").textContent = `of ${model.name}`;
    document.title = `hornbeam trace of ${model.name}`;
    el("summary").textContent = `${model.class}, ${model.dtype}, on ${model.device}; hornbeam ${data.version}; begun ${data.began}`;
  }
  if (!data.sequences.length) {
    el("summary").textContent = "nothing was generated";
    return;
  }
  el("choice").hidden = data.sequences.length < 2;
  el("which").append(...data.sequences.map((told, index) => make("option", { value: index }, sequenceName(told, index))));
  listen();
  openSequence(0);
}

start();
