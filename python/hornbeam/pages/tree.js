// The tree of one step, folded into bands so that all of it lies within the width that there is.

const ROW = 28, BOX = 22, GAP = 20, BAND = 20, INDENT = 22;

/** Nodes of a step, parents first: the last certain token, the draft, and the target's own token. */
function treeNodes(step, most) {
  const accepted = new Set(step.accepted);
  const nodes = [{ text: step.after, kind: "certain", parent: -1 }];
  step.draft.forEach((token, i) => nodes.push({ ...token, parent: token.parent + 1, taken: accepted.has(i) }));
  const end = step.accepted.length ? step.accepted[step.accepted.length - 1] + 1 : 0;
  nodes.push({ text: step.next, kind: step.accepted.length ? "bonus" : "plain", parent: end, isOwn: true, taken: step.emitted > step.accepted.length });
  nodes[0].taken = true;
  for (const node of nodes) {
    [node.shown, node.width] = fitted(node.text, most);
    node.width = Math.max(node.width + 16, BOX);
    node.children = [];
  }
  nodes.forEach((node, i) => {
    node.depth = i ? nodes[node.parent].depth + 1 : 0;
    if (i) nodes[node.parent].children.push(node);
  });
  // The text goes on along the uppermost row.
  for (const node of nodes) node.children.sort((a, b) => (b.taken || b.isOwn ? 1 : 0) - (a.taken || a.isOwn ? 1 : 0));
  return nodes;
}

/** Gives each node its place. A band is as many depths as fit side by side. Returns the height of all. */
function placeNodes(nodes, width) {
  const columns = [];
  for (const node of nodes) columns[node.depth] = Math.max(columns[node.depth] ?? 0, node.width);
  const bands = [], band = [], left = [];
  let x = 0;
  columns.forEach((column, depth) => {
    const isFirst = depth === 0 || x + column > width - GAP;
    if (isFirst) { x = depth ? INDENT : 1; bands.push({ rows: 0, begin: depth }); }
    band[depth] = bands.length - 1;
    left[depth] = x;
    x += column + GAP;
  });
  const visit = node => {
    const own = bands[band[node.depth]];
    let first;
    for (const child of node.children) {
      visit(child);
      if (band[child.depth] === band[node.depth]) first ??= child;
    }
    node.row = first ? first.row : own.rows++;
  };
  visit(nodes[0]);
  let y = 2;
  for (const own of bands) { own.y = y; y += own.rows * ROW + BAND; }
  for (const node of nodes) {
    node.band = band[node.depth];
    node.x = left[node.depth];
    node.y = bands[node.band].y + node.row * ROW;
  }
  return y - BAND;
}

/** The line from a node to its child; one that leads into the next band goes about the right margin. */
function linkPath(from, to, width) {
  const x0 = from.x + from.width, y0 = from.y + BOX / 2, x1 = to.x, y1 = to.y + BOX / 2;
  if (from.band === to.band) {
    const middle = x1 - GAP / 2;
    return y0 === y1 ? `M${x0} ${y0}H${x1}` : `M${x0} ${y0}H${middle - 4}C${middle + 4} ${y0} ${middle - 4} ${y1} ${x1} ${y1}`;
  }
  const right = width - 8, top = to.y - to.row * ROW - (BAND + ROW - BOX) / 2 + 1, r = 5;
  return `M${x0} ${y0}H${right - r}q${r} 0 ${r} ${r}V${top - r}q0 ${r} ${-r} ${r}H${8 + r}q${-r} 0 ${-r} ${r}V${y1 - r}q0 ${r} ${r} ${r}H${x1}`;
}

function nodeTitle(node) {
  const text = quoted(node.text);
  if (node.kind === "certain") return `certain: ${text}`;
  if (node.isOwn) return node.taken ? `the target's own: ${text}` : `the target's own, not emitted, as the text had ended: ${text}`;
  return `${node.taken ? "accepted" : "rejected"}: ${text} (${node.kind})`;
}

function drawNode(node) {
  const group = svg("g", { class: node.taken ? "node taken" : "node" });
  const filled = node.taken && node.kind !== "certain" ? fill(node.kind) : "none";
  const line = node.kind === "certain" ? "var(--soft)" : node.taken ? "var(--mark)" : edge(node.kind);
  group.append(svg("title", {}, nodeTitle(node)),
    svg("rect", { x: node.x, y: node.y, width: node.width, height: BOX, rx: 5, style: `fill:${filled};stroke:${line}` }),
    svg("text", { x: node.x + 8, y: node.y + 15.5, class: node.taken ? "token" : "token soft" }, node.shown));
  return group;
}

/** The drawing of a step's tree, so wide. */
function drawTree(step, width) {
  const nodes = treeNodes(step, Math.min(180, width - INDENT - 2 * GAP - 16));
  const height = placeNodes(nodes, width);
  const picture = svg("svg", { width, height, role: "img", "aria-label": `draft tree: ${step.draft.length} drafted, ${step.accepted.length} accepted` });
  const links = nodes.slice(1).map(node => [nodes[node.parent], node]);
  for (const on of [false, true]) {
    for (const [from, to] of links) {
      if ((from.taken && to.taken) === on) picture.append(svg("path", { d: linkPath(from, to, width), class: on ? "link taken" : "link" }));
    }
  }
  picture.append(...nodes.map(drawNode));
  return picture;
}
