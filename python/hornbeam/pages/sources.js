// Colours of draft sources. Each source has one, on every page; what several proposed has a mixture of theirs.

/** Hue in degrees and chroma, in OKLCH. The three sources of the default draft lie evenly apart. */
const COLOURS = {
  Suffix: [150, 0.11], TokenRecycling: [40, 0.12], FeatureHead: [265, 0.11],
  NGram: [110, 0.11], SmallModel: [310, 0.11], LayerSkip: [205, 0.11],
};
/** What the target gives itself: after accepted tokens, and where there were none. */
const TARGET = ["bonus", "plain"];

/** The sources that proposed a token. */
const sourcesOf = kind => TARGET.includes(kind) ? [] : kind.split(" + ");

/** The colour of a source that is not listed: by its name, off those that the page has. */
function ownColour(name, taken) {
  let hash = 2166136261;
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 16777619) >>> 0;
  let hue = (hash % 24) * 15;
  for (let tries = 0; tries < 24 && taken.some(other => Math.abs((hue - other + 540) % 360 - 180) < 12); tries++) hue = (hue + 15) % 360;
  return [hue, 0.11];
}

/** Kinds of tokens in the order of a legend: sources, their mixtures, the target. */
function kindsOf(sequences) {
  const found = new Set();
  for (const sequence of sequences) for (const step of sequence.steps) for (const token of step.draft) found.add(token.kind);
  const kinds = [...found].sort((a, b) => sourcesOf(a).length - sourcesOf(b).length || (a < b ? -1 : 1));
  for (const name of new Set(kinds.flatMap(sourcesOf))) {
    if (!Object.hasOwn(COLOURS, name)) COLOURS[name] = ownColour(name, Object.values(COLOURS).map(([hue]) => hue));
  }
  return [...kinds, ...TARGET];
}

/** Hue and chroma of a kind: the mean of its sources' as on a colour wheel, not paler than half. */
function mixed(kind) {
  const parts = [...new Set(sourcesOf(kind))].map(name => COLOURS[name]);
  let x = 0, y = 0, strength = 0;
  for (const [hue, chroma] of parts) {
    x += chroma * Math.cos(hue * Math.PI / 180) / parts.length;
    y += chroma * Math.sin(hue * Math.PI / 180) / parts.length;
    strength += chroma / parts.length;
  }
  const chroma = parts.length > 1 ? Math.min(strength, Math.max(1.4 * Math.hypot(x, y), strength / 2)) : strength;
  return { hue: (Math.atan2(y, x) * 180 / Math.PI + 360) % 360, chroma, more: parts.length - 1 };
}

function colour(kind, lightness) {
  const { hue, chroma, more } = mixed(kind);
  return `oklch(calc(var(${lightness}) + ${more} * var(--deeper)) ${chroma.toFixed(3)} ${hue.toFixed(1)})`;
}

/** What a token of this kind is filled with, and the colour of a line about it. */
const fill = kind => kind === "plain" ? "transparent" : kind === "bonus" ? "var(--own)" : colour(kind, "--fill");
const edge = kind => TARGET.includes(kind) ? "var(--soft)" : colour(kind, "--edge");
