/** The measures that a cell of a heatmap can show: its value for a layer, and that value as text. */

import { bytes, short, total } from "./numbers.js";

const signed = (text, value) => (value > 0 ? `+${text}` : text.replace("-", "−"));

/** Returns the measures of the layers of a map; energy is a share of the sum over all of them. */
export function measuresOf(cells) {
  const energy = total(cells, (c) => c.norm ** 2) || 1;
  return {
    rank: { of: (c) => c.rank, text: short },
    norm: { of: (c) => c.norm, text: short },
    bytes: { of: (c) => c.bytes, text: (v) => short(v / 1e3), unit: "kB" },
    energy: { of: (c) => (100 * c.norm ** 2) / energy, text: short, unit: "%" },
  };
}

/** Returns a difference as text, with its sign. */
export function change(measure, value) {
  return signed(measure.text(value), value);
}

/** Returns the numbers of a layer: "rank 5 of 64, norm 0.123, 5.1 kB, 2.1 % of the energy". */
export function figures(cell, cells, say) {
  if (!cell) return say("not adapted");
  const { energy } = measuresOf(cells);
  return [
    say("rank {0} of {1}", cell.rank, cell.max_rank),
    say("norm {0}", short(cell.norm)),
    bytes(cell.bytes),
    say("{0} % of the energy", short(energy.of(cell))),
  ].join(", ");
}

/** Returns a regular expression for LoRA² Target Options that matches exactly these layers. */
export function patternOf(names) {
  const escaped = names.map((n) => n.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return escaped.length === 1 ? `^${escaped[0]}$` : `^(${escaped.join("|")})$`;
}
