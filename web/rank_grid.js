/** A rank map as a grid of coloured cells with labels, and which cell is under the pointer. */

import { cividis, widthOf, write } from "./canvas.js";

const LABEL = 10; // font size
const LINE = 14; // height of a line of labels

/**
 * Draws `cells` ({rank, ...}) into `box` ({x, y, width, height}).
 *
 * @param across the keys of the columns: `xs`, and `x(cell)`
 * @param down the keys of the rows: `ys`, and `y(cell)`
 * @param hovered the cell to outline, or null
 * @returns (x, y) => the cell there, or null
 */
export function drawGrid(context, box, cells, { xs, x, ys, y }, colours, hovered = null) {
  const margin = Math.min(
    box.width * 0.4,
    Math.max(...ys.map((name) => widthOf(context, name, LABEL))) + 8,
  );
  const names = split(xs);
  const wide = (box.width - margin) / xs.length;
  const leaves = names.every(([, leaf]) => widthOf(context, leaf, LABEL) <= wide - 2);
  const head = LINE * (leaves && names.some(([, leaf]) => leaf) ? 2 : 1);
  const tall = (box.height - head) / ys.length;
  const left = box.x + margin, top = box.y + head;

  labelColumns(context, names, leaves, { left, top: box.y, wide, bottom: top }, colours);
  const every = Math.ceil(LINE / tall); // rows thinner than a line are labelled now and then
  ys.forEach((name, i) => {
    if (i % every) return;
    const style = { size: LABEL, align: "right", alpha: 0.75, most: margin - 6 };
    write(context, name, left - 6, top + (i + 0.5) * tall, colours.text, style);
  });

  const greatest = Math.max(1, ...cells.map((c) => c.rank));
  const columnOf = new Map(xs.map((key, i) => [key, i]));
  const rowOf = new Map(ys.map((key, i) => [key, i]));
  const gap = Math.min(1, wide / 6, tall / 6);
  const placed = new Map();
  context.save();
  context.globalAlpha = 0.08; // what is not adapted
  context.fillStyle = colours.text;
  context.fillRect(left, top, wide * xs.length, tall * ys.length);
  context.restore();
  for (const cell of cells) {
    const [column, row] = [columnOf.get(x(cell)), rowOf.get(y(cell))];
    placed.set(`${column} ${row}`, cell);
    const at = [left + column * wide, top + row * tall];
    context.fillStyle = cividis(cell.rank / greatest);
    context.fillRect(at[0], at[1], wide - gap, tall - gap);
    if (wide >= 17 && tall >= 11) {
      const colour = cell.rank < 0.55 * greatest ? "white" : "black";
      const style = { size: Math.min(11, tall - 2), align: "center" };
      write(context, String(cell.rank), at[0] + wide / 2, at[1] + tall / 2, colour, style);
    }
    if (hovered && cell.name === hovered.name) {
      context.strokeStyle = colours.text;
      context.lineWidth = 1.5;
      context.strokeRect(at[0] - 0.5, at[1] - 0.5, wide, tall);
    }
  }
  return (px, py) =>
    placed.get(`${Math.floor((px - left) / wide)} ${Math.floor((py - top) / tall)}`) ?? null;
}

/** The scale of the colours, its right end at `right`. */
export function drawScale(context, right, y, cells, colours) {
  const greatest = String(Math.max(1, ...cells.map((c) => c.rank)));
  const width = 48, end = right - widthOf(context, greatest, LABEL) - 4;
  for (let i = 0; i < width; i++) {
    context.fillStyle = cividis(i / (width - 1));
    context.fillRect(end - width + i, y - 4, 1.5, 8);
  }
  const style = { size: LABEL, align: "right", alpha: 0.75 };
  write(context, "0", end - width - 4, y, colours.text, style);
  write(context, greatest, right, y, colours.text, style);
}

/** [group, leaf] of each name: "self q" is q of self, "mid, block 4" is block 4 of mid. */
function split(names) {
  return names.map((name) => {
    const parts = /^([^ ,.]+)(?:, |[ .])(.+)$/.exec(name);
    return parts ? [parts[1], parts[2]] : [name, ""];
  });
}

function labelColumns(context, names, leaves, { left, top, wide, bottom }, colours) {
  let start = 0;
  names.forEach(([group, leaf], i) => {
    const middle = left + (i + 0.5) * wide;
    const style = { size: LABEL, align: "center", alpha: 0.75 };
    if (leaves) write(context, leaf, middle, bottom - LINE / 2, colours.text, style);
    if (i + 1 < names.length && names[i + 1][0] === group) return;
    const across = (i + 1 - start) * wide;
    style.most = across - 2;
    if (across >= LINE) {
      write(context, group, left + start * wide + across / 2, top + LINE / 2, colours.text, style);
    }
    start = i + 1;
  });
}
