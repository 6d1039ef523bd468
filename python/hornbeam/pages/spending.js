// What a search spent: each kind of cost over the seconds, and the bytes of pages over the rounds.

const COSTS = { tokens: "tokens", forwards: "forward passes", verifier_calls: "paths valued" };

const sized = bytes => bytes >= 1e9 ? `${shortly(bytes / 1e9)} GB` : bytes >= 1e6 ? `${shortly(bytes / 1e6)} MB` : bytes >= 1e3 ? `${shortly(bytes / 1e3)} kB` : `${bytes} B`;
const few = value => value >= 1e6 ? `${shortly(value / 1e6)}M` : value >= 1e4 ? `${shortly(value / 1e3)}k` : number(value);

/** The end of a scale: the limit if what was spent comes near it, or else what was spent. */
const endOf = (most, limit) => limit !== null && limit <= 4 * most ? Math.max(most, limit) : most;

/** One kind of cost over the seconds, with its limit where that lies on the scale. */
function drawCostOverTime(told, kind, width) {
  const left = 46, right = 12, top = 8, height = 92, low = top + height;
  const points = [{ number: 0, seconds: 0, [kind]: 0 }, ...told.rounds];
  const last = points[points.length - 1];
  // A round that was broken off is in the ledger and has no record.
  if (told.ledger[kind] > last[kind]) points.push({ number: null, seconds: told.ledger.seconds, [kind]: told.ledger[kind] });
  const limit = told.budget[kind], until = told.budget.seconds;
  const marks = ticks(Math.max(1, endOf(Math.max(...points.map(point => point[kind])), limit)), 3);
  const far = Math.max(1e-6, endOf(Math.max(told.ledger.seconds, ...points.map(point => point.seconds)), until));
  const x = s => left + (width - left - right) * s / far, y = value => low - height * value / marks[marks.length - 1];
  const name = COSTS[kind];
  const picture = svg("svg", { width, height: low + 22, role: "img", "aria-label": `${name} over seconds` });
  for (const mark of marks.filter(Number.isInteger)) picture.append(line(left, width - right, y(mark)), label(left - 6, y(mark) + 4, "end", few(mark)));
  if (limit !== null && limit <= marks[marks.length - 1]) picture.append(svg("line", { x1: left, x2: width - right, y1: y(limit), y2: y(limit), class: "limit" }));
  if (until !== null && until <= far) picture.append(svg("line", { x1: x(until), x2: x(until), y1: top, y2: low, class: "limit" }));
  picture.append(svg("polyline", { points: points.map(point => `${x(point.seconds)},${y(point[kind])}`).join(" "), class: "curve" }));
  for (const point of points.slice(1)) {
    const dot = svg("circle", { cx: x(point.seconds), cy: y(point[kind]), r: 3, class: "dot", "data-round": point.number ?? "" });
    dot.append(svg("title", {}, `${point.number === null ? "at the end" : `round ${point.number}`}: ${number(point[kind])} ${name} after ${seconds(point.seconds)}`));
    picture.append(dot);
  }
  picture.append(label(left, low + 16, "start", "0 s"), label(width - right, low + 16, "end", seconds(far)));
  return picture;
}

/** All kinds, each with what was spent of how much. */
function drawSpent(told, box) {
  const charts = Object.keys(COSTS).map(kind => {
    const limit = told.budget[kind];
    const head = make("h3", {}, `${number(told.ledger[kind])} ${limit === null ? "" : `of ${number(limit)} `}${COSTS[kind]}`);
    return [kind, make("div", {}, head)];
  });
  box.replaceChildren(...charts.map(([, frame]) => frame));
  for (const [kind, frame] of charts) frame.append(drawCostOverTime(told, kind, frame.clientWidth));
}

/** Bytes of pages round by round. */
function drawPages(told, width, open) {
  const left = 64, right = 4, top = 8, height = 120, low = top + height, rounds = told.rounds;
  const limit = told.budget.kv_bytes, most = Math.max(1, ...rounds.map(round => round.kv_bytes));
  const marks = ticks(endOf(most, limit), 3), high = marks[marks.length - 1];
  const slot = (width - left - right) / Math.max(rounds.length, 1), bar = Math.max(1, Math.min(36, 0.7 * slot));
  const y = bytes => low - height * bytes / high;
  const picture = svg("svg", { width, height: low + 22, role: "img", "aria-label": "bytes of pages held in each round" });
  for (const mark of marks) picture.append(line(left, width - right, y(mark)), label(left - 6, y(mark) + 4, "end", sized(mark)));
  rounds.forEach((round, i) => {
    const at = left + i * slot, x = at + (slot - bar) / 2, group = svg("g");
    const band = svg("rect", { x: at, y: top, width: slot, height, class: "band", "data-round": round.number });
    group.append(svg("title", {}, `round ${round.number}: ${sized(round.kv_bytes)} held, ${sized(round.kv_bytes_held)} stayed`),
      svg("rect", { x, y: y(round.kv_bytes), width: bar, height: low - y(round.kv_bytes), class: "held" }),
      svg("rect", { x, y: y(round.kv_bytes_held), width: bar, height: low - y(round.kv_bytes_held), class: "stayed" }), band);
    group.addEventListener("click", () => open(round.number));
    picture.append(group);
  });
  if (limit !== null && limit <= high) picture.append(svg("line", { x1: left, x2: width - right, y1: y(limit), y2: y(limit), class: "limit" }));
  const every = Math.max(1, Math.ceil(34 / Math.max(slot, 1)));
  for (let i = 1; i <= rounds.length; i += i === 1 && every > 1 ? every - 1 : every) picture.append(label(left + (i - 0.5) * slot, low + 16, "middle", i));
  return picture;
}
