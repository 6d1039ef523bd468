// Charts over a sequence's steps. Each draws itself into the width that it is given.

/** Round numbers from 0 to at least `most`, about `count` of them. */
function ticks(most, count) {
  const rough = most / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(times => times * power).find(value => value >= rough * 0.999);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
}

const label = (x, y, anchor, text) => svg("text", { x, y, "text-anchor": anchor, class: "soft" }, text);
const line = (x1, x2, y) => svg("line", { x1, x2, y1: y, y2: y, class: "axis" });

/** Kinds of the tokens that a step gave, in order. */
function emittedKinds(step) {
  const kinds = step.accepted.map(index => step.draft[index].kind);
  if (step.emitted > kinds.length) kinds.push(kinds.length ? "bonus" : "plain");
  return kinds;
}

/** Upwards what each step emitted, by source; downwards the rows that it verified. */
function drawSteps(steps, width, open) {
  const left = 80, up = 104, down = 56, middle = up + 14;
  const slot = Math.max(5, (width - left - 4) / Math.max(steps.length, 1));
  const bar = Math.max(3, Math.min(40, 0.74 * slot));
  const full = Math.max(width, left + slot * steps.length + 4);
  const mostUp = Math.max(2, ...steps.map(step => step.emitted)), mostDown = Math.max(2, ...steps.map(step => step.draft.length + 1));
  const picture = svg("svg", { width: full, height: middle + down + 24, role: "img", "aria-label": "tokens emitted and rows verified in each step" });
  for (const tick of ticks(mostUp, 4).filter(tick => tick && tick <= mostUp && Number.isInteger(tick))) {
    picture.append(line(left, full, middle - up * tick / mostUp), label(left - 6, middle - up * tick / mostUp + 4, "end", tick));
  }
  picture.append(line(left, full, middle + down), label(left - 6, middle + down + 4, "end", mostDown));
  picture.append(label(left - 6, middle + 4, "end", "0"), label(0, 24, "start", "emitted"), label(0, middle + down - 12, "start", "verified"));
  steps.forEach((step, i) => {
    const x = left + i * slot, at = x + (slot - bar) / 2, group = svg("g", { class: "step", "data-step": i });
    group.append(svg("title", {}, `step ${i + 1}: ${step.emitted} emitted; ${step.draft.length + 1} rows verified: ${step.draft.length} drafted, ${step.accepted.length} accepted`),
      svg("rect", { x, y: 2, width: slot, height: middle + down - 2, class: "band" }));
    emittedKinds(step).forEach((kind, place) => {
      const height = up / mostUp;
      group.append(svg("rect", { x: at, y: middle - height * (place + 1), width: bar, height: Math.max(height - (height > 4 ? 1 : 0), 0.5), class: "piece", style: `fill:${fill(kind)};stroke:${edge(kind)}` }));
    });
    group.append(svg("rect", { x: at, y: middle + 1, width: bar, height: down * (step.draft.length + 1) / mostDown, class: "rows" }));
    group.addEventListener("click", () => open(i));
    picture.append(group);
  });
  picture.append(line(left, full, middle));
  const every = ticks(steps.length, Math.max(2, Math.min(12, width / 110)))[1];
  for (let i = 1; i <= steps.length; i = i === 1 && every > 1 ? Math.ceil(every) : i + Math.ceil(every)) {
    picture.append(label(left + (i - 0.5) * slot, middle + down + 18, "middle", i === 1 ? "step 1" : i));
  }
  return picture;
}

/** The measured seconds of a pass by its rows, over how often so many rows were chosen. */
function drawCost(curve, steps, width) {
  const used = new Map();
  for (const step of steps) used.set(step.rows, (used.get(step.rows) ?? 0) + 1);
  const left = 74, right = 18, height = 190, low = height + 10;
  // As far as steps went and the points about them; what was measured beyond that would press them together.
  const far = Math.max(2, ...used.keys()), points = [...curve].sort((a, b) => a[0] - b[0]);
  const next = points.findIndex(([rows]) => rows >= 1.15 * far);
  const seen = next < 0 ? points : points.slice(0, next + 1);
  const widest = Math.max(far, ...seen.map(([rows]) => rows)), often = Math.max(1, ...used.values());
  const marks = ticks(Math.max(1e-9, ...seen.map(point => point[1])), 4), slowest = marks[marks.length - 1];
  const x = rows => left + (width - left - right) * rows / widest, y = s => low - height * s / slowest;
  const picture = svg("svg", { width, height: low + 40, role: "img", "aria-label": "seconds of a forward pass by its rows" });
  if (points.length) for (const mark of marks) picture.append(line(left, width - right, y(mark)), label(left - 8, y(mark) + 4, "end", seconds(mark)));
  const bar = Math.max(3, Math.min(16, 0.7 * (width - left - right) / widest));
  for (const [rows, count] of used) {
    const column = svg("rect", { x: x(rows) - bar / 2, y: low - 0.85 * height * count / often, width: bar, height: 0.85 * height * count / often, class: "chosen" });
    column.append(svg("title", {}, `${rows} rows: ${count} of ${steps.length} steps`));
    picture.append(column);
  }
  picture.append(svg("polyline", { points: seen.map(point => `${x(point[0])},${y(point[1])}`).join(" "), class: "curve" }));
  for (const [rows, s] of seen) {
    const dot = svg("circle", { cx: x(rows), cy: y(s), r: 3.5 });
    dot.append(svg("title", {}, `${Number(rows.toFixed(1))} rows: ${seconds(s)}`));
    picture.append(dot);
  }
  for (const tick of ticks(widest, Math.max(2, Math.min(10, width / 90)))) {
    if (tick <= widest) picture.append(label(x(tick), low + 18, "middle", Number(tick.toFixed(2))));
  }
  picture.append(label(left + (width - left - right) / 2, low + 36, "middle", "rows of a pass"));
  return picture;
}

/** Where a sequence's seconds went: a row of a table for each phase, the longest first. */
function drawPhases(phases) {
  const total = Object.values(phases).reduce((sum, s) => sum + s, 0);
  return Object.entries(phases).sort((a, b) => b[1] - a[1]).flatMap(([name, s]) => {
    const bar = make("i");
    bar.style.width = `${total ? 100 * s / total : 0}%`;
    return [make("span", {}, name), make("div", {}, bar), make("span", {}, seconds(s)), make("span", {}, total ? `${(100 * s / total).toFixed(s / total < 0.1 ? 1 : 0)} %` : "")];
  });
}
