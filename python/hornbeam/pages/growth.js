// The tree of a search: a column for each step, a row for each leaf, the chosen path along the uppermost row.

const LEAST = 10, TALL = 760, HEAD = 22;

/** Nodes by number, the prompt's being 0, with children, row and whether they lie on the chosen path. */
function growTree(told) {
  const way = new Set([0, ...told.path]);
  const root = { node: 0, parent: null, depth: 0, round: 0, text: told.prompt, children: [] };
  const all = new Map([[0, root]]);
  for (const node of told.nodes) all.set(node.node, { ...node, children: [] });
  for (const node of all.values()) {
    node.onWay = way.has(node.node);
    if (node.node) all.get(node.parent).children.push(node);
  }
  for (const node of all.values()) node.children.sort((a, b) => b.onWay - a.onWay || a.node - b.node);
  let rows = 0;
  // Without recursion: paths may be longer than a stack is deep.
  const open = [root], order = [];
  while (open.length) {
    const node = open.pop();
    order.push(node);
    open.push(...[...node.children].reverse());
  }
  for (const node of order) if (!node.children.length) node.row = rows++;
  for (const node of order.reverse()) if (node.children.length) node.row = node.children[0].row;
  return { all, order: order.reverse(), rows: Math.max(rows, 1), depth: Math.max(0, ...[...all.values()].map(node => node.depth)) };
}

/** The lowest and the highest value that occur. */
function valueRange(told) {
  const values = told.nodes.map(node => node.value).filter(value => value !== null);
  return values.length ? values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [values[0], values[0]]) : [0, 0];
}

const shortly = value => value === null || value === undefined ? "\u2013" : Math.abs(value) >= 1000 || value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : String(Number(value.toFixed(3)));

/** What a value is filled with; where all are alike, the middle of the scale. */
function heatOf(value, [low, high]) {
  if (value === null || value === undefined) return "var(--back)";
  const share = high > low ? (value - low) / (high - low) : 0.5;
  return `color-mix(in oklab, var(--heat-high) ${(100 * share).toFixed(1)}%, var(--heat-low))`;
}

/** Whether a node and all below it were released before the last round was over. */
const wasReleased = node => Boolean(node.released) && node.released < data.rounds.length;
const heldUntil = node => wasReleased(node) ? `released after round ${node.released}` : "held to the end";

/** What is said of a node in a line. */
function nodeSaid(node) {
  if (!node.node) return "the prompt";
  const end = node.is_finished ? "finished" : heldUntil(node);
  return `node ${node.node}, round ${node.round ?? "\u2013"}, value ${shortly(node.value)}, ${number(node.tokens)} ${node.tokens === 1 ? "token" : "tokens"}, ${end}${node.onWay ? ", on the chosen path" : ""}: ${quoted(node.text)}`;
}

/** The drawing of a whole tree in so much width. Calls pick(node) for a node that is clicked or reached by a key. */
function drawGrowth(tree, range, width, pick) {
  const row = Math.min(24, Math.max(LEAST, TALL / tree.rows));
  const column = Math.max(LEAST, (width - 14) / (tree.depth + 1));
  const size = Math.max(3, Math.min(8, 0.38 * row, 0.36 * column));
  const labels = row >= 13 && column >= 46;
  const x = node => 8 + size + node.depth * column, y = node => HEAD + row * (node.row + 0.5);
  const full = Math.max(width, 14 + column * (tree.depth + 1)), height = HEAD + row * tree.rows + 4;
  const picture = svg("svg", { width: full, height, role: "tree", "aria-label": `the tree of the search: ${tree.all.size - 1} nodes` });
  const every = Math.max(1, Math.ceil(30 / column));
  for (let depth = 1; depth <= tree.depth; depth += depth === 1 && every > 1 ? every - 1 : every) {
    picture.append(label(8 + size + depth * column, 13, "middle", depth === 1 && column > 60 ? "step 1" : depth));
  }
  const links = svg("g"), nodes = svg("g");
  const drawn = new Map();
  for (const node of tree.order) {
    if (node.node) links.append(linkOf(tree.all.get(node.parent), node, x, y));
    const group = drawLeaf(node, x(node), y(node), { row, column, size, labels, range });
    group.addEventListener("click", () => pick(node));
    group.addEventListener("keydown", event => {
      const to = neighbour(tree, node, event.key, drawn);
      if (!to) return;
      event.preventDefault();
      event.stopPropagation();
      pick(to);
      drawn.get(to.node).focus();
    });
    drawn.set(node.node, group);
    nodes.append(group);
  }
  // The chosen path lies on top of the others.
  for (const link of [...links.children].filter(one => one.classList.contains("way"))) links.append(link);
  picture.append(links, nodes);
  return { picture, drawn, links };
}

function linkOf(from, to, x, y) {
  const x0 = x(from), y0 = y(from), x1 = x(to), y1 = y(to), bend = Math.min(12, (x1 - x0) / 2);
  const d = y0 === y1 ? `M${x0} ${y0}H${x1}` : `M${x0} ${y0}C${x0 + bend} ${y0} ${x0} ${y1} ${x0 + bend} ${y1}H${x1}`;
  return svg("path", { d, class: to.onWay ? "link way" : "link", "data-node": to.node });
}

function drawLeaf(node, x, y, { row, column, size, labels, range }) {
  const said = nodeSaid(node);
  const group = svg("g", { class: node.onWay ? "leaf way" : "leaf", "data-node": node.node, role: "treeitem", tabindex: -1, "aria-level": node.depth + 1, "aria-selected": "false", "aria-label": said });
  const wide = labels ? column - 2 : 2 * size + 4;
  group.append(svg("title", {}, said), svg("rect", { x: x - size - 2, y: y - row / 2 + 0.5, width: wide, height: row - 1, rx: 4, class: "hit" }));
  const style = `fill:${node.node ? heatOf(node.value, range) : "var(--ink)"}`;
  group.append(node.is_finished
    ? svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, rx: 2, class: "mark", style })
    : svg("circle", { cx: x, cy: y, r: size, class: "mark", style }));
  if (labels) {
    const most = column - 2 * size - 12, value = node.node ? shortly(node.value) : "prompt";
    const text = node.node && most > 90 ? `${value} ${node.text.trim().slice(0, 160)}` : value;
    group.append(svg("text", { x: x + size + 4, y: y - 3 }, fitted(text, most)[0]));
  }
  return group;
}

/** The node that a key leads to. Nodes that are not drawn yet at the round that is shown are passed over. */
function neighbour(tree, node, key, drawn) {
  const isSeen = other => !drawn.get(other.node).classList.contains("later");
  if (key === "ArrowLeft") return node.node ? tree.all.get(node.parent) : null;
  if (key === "ArrowRight") return node.children.find(isSeen) ?? null;
  if (key === "Home") return tree.all.get(0);
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const column = tree.order.filter(other => other.depth === node.depth && isSeen(other)).sort((a, b) => a.row - b.row);
  return column[column.indexOf(node) + (key === "ArrowUp" ? -1 : 1)] ?? null;
}
