/** A rank map as the model is built: strips of blocks, each block a column of its modules. */

const UNET = /^(down|mid|up)(?: ([\d.]+))?(?:, block (\d+))?$/;

/** {strip, side, group, label} of a row of a rank map, that is, of a block. */
function blockOf(row, deep) {
  const found = UNET.exec(row);
  if (found) {
    const [, side, index = "", block = ""] = found;
    if (deep) return { strip: "", side, group: `${side} ${index}`.trim(), label: block };
    return { strip: "", side, group: side, label: index };
  }
  const [, name = row, label = ""] = /^(.*?)[ ._]?(\d+)$/.exec(row) ?? [];
  const strip = name.replace(/[._]+/g, " ").trim() || "other layers";
  return { strip, side: strip, group: strip, label };
}

/** Modules of which blocks: [module, leaf] of "self q", "img_attn.qkv", "linear1". */
function moduleOf(column) {
  const found = /^([^ .]+)[ .](.+)$/.exec(column);
  return found ? { group: found[1], label: column.replace(".", " ") } : { group: "", label: column };
}

/**
 * Strips of a map {rows, columns, cells: [{row, column}]}: the down, mid and up blocks of a UNet
 * are one, the double blocks of Flux another than its single ones.
 *
 * @returns [{title, blocks: [{key, side, group, label}], modules: [{key, group, label}]}]
 */
export function strips({ rows, columns, cells }) {
  const deep = rows.some((row) => / block /.test(` ${row}`) && UNET.test(row));
  const found = new Map();
  for (const key of rows) {
    const block = { key, ...blockOf(key, deep) };
    if (!found.has(block.strip)) found.set(block.strip, []);
    found.get(block.strip).push(block);
  }
  return [...found].map(([title, blocks]) => {
    const here = new Set(blocks.map((b) => b.key));
    const used = new Set(cells.filter((c) => here.has(c.row)).map((c) => c.column));
    const modules = columns.filter((c) => used.has(c)).map((key) => ({ key, ...moduleOf(key) }));
    return { title, blocks, modules };
  });
}

/** One map of the layers of two, for a comparison: cells hold those of both as `pair`. */
export function united([first, second]) {
  const cells = new Map(first.cells.map((c) => [c.name, { ...c, pair: [c, null] }]));
  for (const cell of second.cells) {
    const known = cells.get(cell.name);
    if (known) known.pair[1] = cell;
    else cells.set(cell.name, { ...cell, pair: [null, cell] });
  }
  const all = (axis) => [...new Set([...first[axis], ...second[axis]])];
  return { rows: all("rows"), columns: all("columns"), cells: [...cells.values()] };
}
