/** The sizes of a rank map before it is drawn: its gaps, its lines of labels, its least height. */

import { widthOf } from "./dom.js";
import { total } from "./numbers.js";
import { strips } from "./strips.js";

// in pixels
export const LINE = 14; // height of a line of labels
export const GAP = { side: 8, group: 3, modules: 4 }; // between down and mid; blocks; self and cross
export const LEAST = 11; // height of a cell: labels beside it do not overlap, and a number fits

const STRIDES = [1, 2, 5, 10, 20, 50]; // every how many blocks a number stands above them

/** Returns the least height of a map in pixels. */
export function leastHeight(map) {
  const { lines, rest } = heights(strips(map));
  return lines * LEAST + rest;
}

/** Returns the lines of cells in all strips, and the pixels of everything else. */
export function heights(parts) {
  const titled = parts.length > 1 ? 1 : 0;
  const rest = (p) => (headLines(p) + titled) * LINE + breaks(p.modules) * GAP.modules + 4;
  return { lines: total(parts, (p) => p.modules.length), rest: total(parts, rest) };
}

/** Returns every how many blocks there is room for a number, 0 where there is none. */
export function strideOf(blocks, wide) {
  const widest = Math.max(...blocks.map((b) => widthOf(b.label)));
  return STRIDES.find((stride) => stride * wide >= widest + 4) ?? 0;
}

/** Returns how many lines of labels stand above the blocks: numbers, and groups where there are. */
export function headLines({ blocks }) {
  return blocks.some((b) => b.group !== b.strip) ? 2 : 1;
}

/** Returns how many modules begin a new group. */
function breaks(modules) {
  return modules.filter((m, i) => i && m.group !== modules[i - 1].group).length;
}

/** Returns the pixels of all gaps between blocks. */
export function gapsOf(blocks) {
  return blocks.reduce((sum, block, i) => {
    const before = blocks[i - 1];
    if (!before || before.group === block.group) return sum;
    return sum + (before.side !== block.side ? GAP.side : GAP.group);
  }, 0);
}
