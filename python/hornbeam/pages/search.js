// A search: one of its nodes is picked, and one of its rounds is shown.

const tree = growTree(data);
const range = valueRange(data);
const ENDS = { over: "by itself", interrupted: "it was interrupted", error: "by an error" };
let picked = null, shown = data.rounds.length, drawing = null;

/** The nodes from the prompt to this one. */
function wayTo(node) {
  const found = [];
  for (; node; node = node.node ? tree.all.get(node.parent) : null) found.unshift(node);
  return found;
}

const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
const ofLimit = kind => data.budget[kind] === null ? "" : ` of ${kind === "kv_bytes" ? sized(data.budget[kind]) : number(data.budget[kind])}`;

function showFacts() {
  const { model, ledger, nodes, rounds } = data;
  if (model) {
    el("model").textContent = `of ${model.name}`;
    document.title = `hornbeam search of ${model.name}`;
    el("summary").textContent = `${model.class}, ${model.dtype}, on ${model.device}; hornbeam ${data.version}; begun ${data.began}`;
  }
  if (data.error !== null) {
    el("failure").hidden = false;
    el("failure").textContent = data.error;
  }
  const best = tree.all.get(data.best);
  fillFacts(el("figures"), [
    ["value of the chosen path", shortly(best?.value)],
    ["paths", `${number(nodes.length)}, ${number(nodes.filter(node => node.is_finished).length)} finished`],
    ["rounds", number(rounds.length)],
    ["prompt", counted(data.prompt_tokens, "token", "tokens")],
    ["tokens written", number(ledger.tokens) + ofLimit("tokens")],
    ["forward passes", number(ledger.forwards) + ofLimit("forwards")],
    ["paths valued", number(ledger.verifier_calls) + ofLimit("verifier_calls")],
    ["pages at most", sized(ledger.kv_bytes) + ofLimit("kv_bytes")],
    ["time", seconds(ledger.seconds) + (data.budget.seconds === null ? "" : ` of ${seconds(data.budget.seconds)}`)],
    ["ended", ENDS[data.stop] ?? `the budget of ${data.stop} was spent`],
  ]);
  fillFacts(el("settings"), Object.entries(data.settings));
  el("range").textContent = range[0] === range[1] ? `value ${shortly(range[0])}` : `value, from ${shortly(range[0])} to ${shortly(range[1])}`;
}

function showAnswers() {
  el("voted").hidden = !data.answers.length;
  const head = make("tr", {}, make("th", {}, "answer"), make("th", { class: "number" }, "votes"), make("th", { class: "number" }, "sum of values"), make("th", {}, ""));
  el("answers").replaceChildren(head, ...data.answers.map(answer => {
    const button = make("button", { type: "button" }, `node ${answer.best}`);
    button.addEventListener("click", () => pick(tree.all.get(answer.best)));
    const row = make("tr", {}, spell(make("td", { class: "words" }), answer.text), make("td", { class: "number" }, number(answer.votes)), make("td", { class: "number" }, shortly(answer.value)), make("td", {}, button));
    if (tree.all.get(data.best)?.is_finished && answer.best === data.best) row.className = "way";
    return row;
  }));
}

function showTable() {
  const columns = [
    ["node", node => node.node], ["parent", node => node.parent], ["step", node => node.depth], ["round", node => node.round ?? "\u2013"],
    ["value", node => shortly(node.value)], ["tokens", node => number(node.tokens)], ["tokens shared", node => number(node.reused_tokens ?? 0)],
    ["own pages", node => sized(node.kv_bytes ?? 0)], ["released after", node => wasReleased(node) ? node.released : "\u2013"],
    ["mean log-prob.", node => shortly(node.mean_logprob)], ["finished", node => node.is_finished ? "yes" : ""],
  ];
  const head = make("tr", {}, ...columns.map(([name]) => make("th", { class: "number" }, name)), make("th", {}, "text of the step"));
  el("table").replaceChildren(head, ...data.nodes.map(node => {
    const row = make("tr", {}, ...columns.map(([, said]) => make("td", { class: "number" }, said(node))), spell(make("td", { class: "words" }), node.text));
    if (tree.all.get(node.node).onWay) row.className = "way";
    return row;
  }));
}

function pick(node) {
  picked = node;
  if ((node.round ?? 0) > shown) showRound(node.round);
  for (const [key, group] of drawing?.drawn ?? []) {
    const isPicked = key === node.node;
    group.classList.toggle("picked", isPicked);
    group.setAttribute("aria-selected", String(isPicked));
    group.setAttribute("tabindex", isPicked ? 0 : -1);
  }
  el("which").textContent = node.node ? `Node ${node.node}, step ${node.depth} of its path` : "The prompt";
  fillFacts(el("facts"), node.node ? [
    ["value", shortly(node.value)],
    ["written in round", node.round ?? "\u2013"],
    ["goes on from", node.parent ? `node ${node.parent}` : "the prompt"],
    ["tokens of the step", number(node.tokens)],
    ["tokens shared", number(node.reused_tokens ?? 0)],
    ["pages of its own", sized(node.kv_bytes ?? 0)],
    ["pages", heldUntil(node)],
    ["mean log-probability", shortly(node.mean_logprob)],
    ["finished", node.is_finished ? node.answer === null ? "yes" : `yes: ${quoted(node.answer)}` : "no"],
    ["children", number(node.children.length)],
  ] : [["tokens", number(data.prompt_tokens)], ["children", number(node.children.length)]]);
  el("text").replaceChildren(...wayTo(node).map(step => {
    const span = spell(make("span", step === node ? { class: "picked" } : {}), step.text);
    if (step.node) span.style.background = heatOf(step.value, range);
    span.title = step.node ? `node ${step.node}, value ${shortly(step.value)}` : "the prompt";
    span.addEventListener("click", () => pick(step));
    return span;
  }));
  el("text").scrollTop = el("text").scrollHeight;
}

/** Shows the tree as it was after a round. */
function showRound(round) {
  const last = data.rounds.length;
  shown = Math.min(Math.max(round, Math.min(last, 1)), last);
  el("back").disabled = shown <= 1;
  el("on").disabled = shown >= last;
  el("slide").disabled = last < 2;
  el("slide").max = Math.max(last, 1);
  el("slide").value = shown;
  const record = data.rounds[shown - 1];
  el("place").textContent = record ? `round ${shown} of ${last}: ${number(record.nodes.length)} written, ${number(record.live.length)} to go on from` : "no round";
  const mark = (element, node) => {
    element.classList.toggle("later", (node.round ?? 0) > shown);
    element.classList.toggle("released", wasReleased(node) && node.released <= shown);
  };
  for (const [key, group] of drawing?.drawn ?? []) mark(group, tree.all.get(key));
  for (const link of drawing?.links.children ?? []) mark(link, tree.all.get(Number(link.dataset.node)));
  for (const band of document.querySelectorAll("#pages .band")) band.classList.toggle("open", Number(band.dataset.round) === shown);
  for (const dot of document.querySelectorAll("#spent .dot")) dot.setAttribute("r", Number(dot.dataset.round) === shown ? 5 : 3);
}

/** Draws what depends on the width that there is. */
function drawAll() {
  const hadFocus = el("tree").contains(document.activeElement);
  drawing = drawGrowth(tree, range, el("tree").clientWidth, pick);
  el("tree").replaceChildren(drawing.picture);
  drawSpent(data, el("spent"));
  el("pages").replaceChildren(drawPages(data, el("pages").clientWidth, showRound));
  showRound(shown);
  pick(picked ?? tree.all.get(data.best) ?? tree.all.get(0));
  if (hadFocus) drawing.drawn.get(picked.node).focus();
}

function listen() {
  el("back").addEventListener("click", () => showRound(shown - 1));
  el("on").addEventListener("click", () => showRound(shown + 1));
  el("slide").addEventListener("input", event => showRound(Number(event.target.value)));
  onWidth(el("tree"), drawAll);
}

function start() {
  if (!data.nodes.length) {
    el("summary").textContent = "nothing was searched";
    return;
  }
  showFacts();
  showAnswers();
  showTable();
  listen();
  drawAll();
}

start();
