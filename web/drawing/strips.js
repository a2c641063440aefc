/** A rank map in strips: blocks of one kind beside each other, the modules of a block below it. */

/**
 * Returns where a block stands: the strip and the side that it is in, the group that is named above
 * it, and its own label.
 *
 * @param block {part, index, number, unet}, as lora2_core/adapter/layout.py reads it from a name
 * @param deep whether any block of the UNet is one of several at its index
 */
function labelled({ part, index, number, unet }, deep) {
  if (!unet) return { strip: part, side: part, group: part, label: number };
  if (deep) return { strip: "", side: part, group: `${part} ${index}`.trim(), label: number };
  return { strip: "", side: part, group: part, label: index };
}

/**
 * Returns the strips of a map {rows, columns, cells: [{row, column}], blocks, modules}: the down,
 * mid and up blocks of a UNet are one strip, the double blocks of Flux one and its single blocks
 * another.
 *
 * @returns [{title, blocks: [{key, side, group, label}], modules: [{key, group, label}]}]
 */
export function strips({ rows, columns, cells, blocks, modules }) {
  const deep = blocks.some((block) => block.unet && block.number);
  const blocksOf = new Map(); // title of a strip -> its blocks
  rows.forEach((key, i) => {
    const block = { key, ...labelled(blocks[i], deep) };
    if (!blocksOf.has(block.strip)) blocksOf.set(block.strip, []);
    blocksOf.get(block.strip).push(block);
  });
  const every = columns.map((key, i) => ({ key, ...modules[i] }));
  return [...blocksOf].map(([title, own]) => {
    const keys = new Set(own.map((b) => b.key));
    const used = new Set(cells.filter((c) => keys.has(c.row)).map((c) => c.column));
    return { title, blocks: own, modules: every.filter((m) => used.has(m.key)) };
  });
}

/** Returns one map of the layers of two; each cell holds those of both as `pair`. */
export function united([first, second]) {
  const cells = new Map(first.cells.map((c) => [c.name, { ...c, pair: [c, null] }]));
  for (const cell of second.cells) {
    const known = cells.get(cell.name);
    if (known) known.pair[1] = cell;
    else cells.set(cell.name, { ...cell, pair: [null, cell] });
  }
  const merged = (keys, values) => {
    const entries = [first, second].flatMap((map) => map[keys].map((key, i) => [key, map[values][i]]));
    const all = new Map(entries);
    return { [keys]: [...all.keys()], [values]: [...all.values()] };
  };
  return { ...merged("rows", "blocks"), ...merged("columns", "modules"), cells: [...cells.values()] };
}
