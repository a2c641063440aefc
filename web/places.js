/** Where each layer stands in its model; the same rules as lora2_core/rank_map.py. */

const UNET = new RegExp(
  "(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)\\.?([\\d.]*?)\\.?" +
    "(?:attentions\\.(\\d+)\\.)?transformer_blocks\\.(\\d+)\\.(.+)$",
);
const SIDES = { input: "down", down: "down", middle: "mid", mid: "mid", output: "up", up: "up" };
const ATTENTION = { attn1: "self", attn2: "cross" };
const ORDER = [["self", "cross"], ["q", "k", "v", "out"]];

/** [row, column] of a layer: a transformer block of a UNet, else the path to its last number. */
function place(name) {
  const path = name.replace(/^diffusion_model\./, "").replace(/\.to_out\.0$/, ".to_out");
  const unet = UNET.exec(path);
  if (unet) {
    const [, part, numbers, attention, block, rest] = unet;
    const side = SIDES[part.split("_")[0]];
    const index = [numbers.split(".")[0], attention].filter(Boolean).join(".");
    const row = side === "mid" ? side : `${side} ${index}`.trim();
    const [module, ...leaf] = rest.split(".");
    const column = `${ATTENTION[module] ?? module} ${leaf.join(".").replace(/^to_/, "")}`.trim();
    return [`${row}, block ${block}`, column];
  }
  const numbered = /^(.*\.\d+)\.(.+)$/.exec(path);
  return numbered ? [numbered[1], numbered[2]] : ["", path];
}

function rankIn(list, value) {
  const at = list.indexOf(value);
  return at < 0 ? list.length : at;
}

function byOrder(a, b) {
  const [x, y] = [a.split(" "), b.split(" ")];
  for (const i of [0, 1]) {
    const apart = rankIn(ORDER[i], x[i]) - rankIn(ORDER[i], y[i]);
    if (apart) return apart;
    if (x[i] !== y[i]) return (x[i] ?? "") < (y[i] ?? "") ? -1 : 1;
  }
  return 0;
}

/** {rows, columns, cells: [{name, row, column, rank}]} of {layer name: rank}. */
export function rankMap(ranks) {
  let cells = Object.entries(ranks).map(([name, rank]) => {
    const [row, column] = place(name);
    return { name, row, column, rank };
  });
  if (cells.every((c) => c.row.endsWith(", block 0"))) {
    cells = cells.map((c) => ({ ...c, row: c.row.slice(0, -", block 0".length) }));
  }
  return {
    rows: [...new Set(cells.map((c) => c.row))],
    columns: [...new Set(cells.map((c) => c.column))].sort(byOrder),
    cells,
  };
}
