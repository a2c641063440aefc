/** What a cell of the heatmap can show. Each: its value in a layer, and how it is written. */

import { bytes, short, total } from "./numbers.js";

const signed = (text, value) => (value > 0 ? `+${text}` : text.replace("-", "−"));

/** Measures of the layers of a map; energy is a share, so it needs them all. */
export function measuresOf(cells) {
  const whole = total(cells, (c) => c.norm ** 2) || 1;
  return {
    rank: { of: (c) => c.rank, text: short },
    norm: { of: (c) => c.norm, text: short },
    bytes: { of: (c) => c.bytes, text: (v) => short(v / 1e3), unit: "kB" },
    energy: { of: (c) => (100 * c.norm ** 2) / whole, text: short, unit: "%" },
  };
}

/** A difference as text. */
export function change(measure, value) {
  return signed(measure.text(value), value);
}

/** "rank 5 of 64, norm 0.123, 5.1 kB, 2.1 % of the energy" */
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

/** A regular expression for LoRA² Target Options that finds exactly these layers. */
export function patternOf(names) {
  const escaped = names.map((n) => n.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return escaped.length === 1 ? `^${escaped[0]}$` : `^(${escaped.join("|")})$`;
}
