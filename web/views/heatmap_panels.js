/** The panels of a heatmap: which maps it shows, in which colours and under which names. */

import { amount, difference } from "../drawing/colours.js";
import { cut, html } from "../drawing/dom.js";
import { change, measuresOf } from "../drawing/measures.js";
import { megabytes, total } from "../drawing/numbers.js";
import { say } from "../server/words.js";

const INPUTS = ["lora2", "compare"];
const NAME = 130; // pixels, greatest width of an adapter's name before numbers
const NO_LAYER = { fill: "currentColor", opacity: 0.1, ink: "currentColor", text: "" };

/**
 * Returns the panels of a heatmap, from above to below: [{title, look, scale, ends}]; look(name) is
 * how the cell of a layer is painted, scale the colours between the texts `ends`.
 *
 * @param heatmap {maps, all, names, measure, layout}: one map or two, their union, the adapters'
 *   names, and what is shown of them
 * @param palette the colours of a difference
 */
export function panelsOf({ maps, all, names, measure, layout }, palette) {
  const measures = maps.map((map) => measuresOf(map.cells)[measure]);
  const cells = maps.map((map) => new Map(map.cells.map((c) => [c.name, c])));
  const value = (i, name) => (cells[i].has(name) ? measures[i].of(cells[i].get(name)) : null);
  const layers = all.cells.map((c) => c.name);
  if (maps.length > 1 && layout === "difference") {
    const apart = (name) => (value(1, name) ?? 0) - (value(0, name) ?? 0);
    const most = Math.max(...layers.map((name) => Math.abs(apart(name)))) || 1;
    return [{
      title: `${shortName(names, 1)} − ${shortName(names, 0)}, ${measureTitle(measure)}`,
      look: (name) => ({
        ...difference(apart(name) / most, palette), text: change(measures[0], apart(name)),
      }),
      scale: [-1, -0.5, 0, 0.5, 1].map((share) => difference(share, palette)),
      ends: [change(measures[0], -most), change(measures[0], most)],
    }];
  }
  const greatest = Math.max(...layers.flatMap((n) => maps.map((_, i) => value(i, n) ?? 0))) || 1;
  return maps.map((map, i) => ({
    title: `${names[i] || maps.length > 1 ? `${shortName(names, i)}: ` : ""}${summary(map)}`,
    look: (name) => {
      const v = value(i, name);
      return v === null ? NO_LAYER : { ...amount(v / greatest), text: measures[i].text(v) };
    },
    scale: [0, 0.25, 0.5, 0.75, 1].map((share) => amount(share)),
    ends: ["0", [measures[i].text(greatest), measures[i].unit].filter(Boolean).join(" ")],
  }));
}

/** Returns the name of a measure with its unit. */
export function measureTitle(measure) {
  const { unit } = measuresOf([])[measure];
  return unit ? `${say(measure)} (${unit})` : say(measure);
}

/** Returns the name of an adapter, or of its input, cut to what fits before numbers. */
export function shortName(names, i) {
  return cut(names[i] ?? INPUTS[i], NAME, 11);
}

/**
 * Returns the names of adapters: of their files, else of the nodes that they come from; null where
 * both are the same or there is none.
 */
export function namesOf(node, maps, files) {
  const titles = INPUTS.map((name) => sourceOf(node, name)?.title ?? null);
  const names = maps.map((_, i) => files[i]?.split(/[\\/]/).at(-1).replace(/\.\w+$/, "") ?? titles[i]);
  if (maps.length < 2) return files[0] ? names : [null];
  if (names[0] !== names[1]) return names;
  return titles[0] !== titles[1] ? titles : [null, null];
}

/** Returns the node that an input comes from. */
function sourceOf(node, name) {
  const id = node.inputs?.find((i) => i.name === name)?.link;
  const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
  return node.graph?.getNodeById(link?.origin_id);
}

/** Returns the number of layers, their mean rank weighted by size, and the size of an adapter. */
function summary({ cells, mean_rank: weighted }) {
  const mean = weighted ?? total(cells, (c) => c.rank) / (cells.length || 1);
  const size = total(cells, (c) => c.bytes) / 1e6;
  return say("{0} layers, mean rank {1}, {2}", cells.length, mean.toFixed(1), megabytes(size));
}

/** Returns an element with the colours of a scale between the texts of its ends. */
export function colourScale(scale, [low, high]) {
  const colours = scale.map(
    ({ fill, opacity }) => `color-mix(in srgb, ${fill} ${100 * opacity}%, transparent)`,
  );
  const bar = html("i");
  bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
  return html("span", { class: "scale" }, low, bar, high);
}
