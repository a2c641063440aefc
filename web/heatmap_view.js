/** Rank Heatmap shows its map in the node; the layer under the pointer is named. */

import { app } from "../../scripts/app.js";
import { addCanvas, atLeast, drawEmpty, pointerAt, write } from "./canvas.js";
import { drawGrid, drawScale } from "./rank_grid.js";

const NODE = "LoRA2RankHeatmap";
const OUTPUT = "lora2_rank_map"; // in the node's ui output
const HEIGHT = 220;
const PAD = 10;

class HeatmapView {
  map = null;
  hovered = null;
  cellAt = () => null;

  constructor(node) {
    this.node = node;
    const drawn = addCanvas(node, "lora2_rank_map_view", HEIGHT, (...args) => this.draw(...args));
    Object.assign(this, drawn);
    this.root.dataset.lora2View = "heatmap";
    this.canvas.addEventListener("pointermove", (event) => {
      this.hover(this.cellAt(...pointerAt(this.canvas, event)));
    });
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
  }

  /** Takes {rows, columns, cells} of a finished run. */
  show(map) {
    this.map = map;
    this.hovered = null;
    this.root.dataset.layers = String(map.cells.length);
    this.root.dataset.rows = JSON.stringify(map.rows);
    this.redraw();
  }

  hover(cell) {
    if (cell?.name !== this.hovered?.name) this.redraw();
    this.hovered = cell;
    this.root.dataset.hovered = cell?.name ?? "";
  }

  draw(context, width, height, colours) {
    // A workflow tab that is opened again has its outputs, but its nodes are new.
    const kept = this.map ? null : app.nodeOutputs?.[this.node.id]?.[OUTPUT]?.[0];
    if (kept) this.show(kept);
    if (!this.map) {
      drawEmpty(context, width, height, colours, "Every layer's rank appears here after a run.");
      return;
    }
    const { rows, columns, cells } = this.map;
    const wide = width - 2 * PAD;
    write(context, summary(cells), PAD, 15, colours.text, { size: 11, most: wide - 90 });
    drawScale(context, width - PAD, 15, cells, colours);
    const box = { x: PAD, y: 26, width: wide, height: height - 26 - 44 };
    const axes = { xs: columns, x: (c) => c.column, ys: rows, y: (c) => c.row };
    this.cellAt = drawGrid(context, box, cells, axes, colours, this.hovered);
    const [first, second] = description(this.hovered);
    write(context, first, PAD, height - 28, colours.text, { size: 11, most: wide });
    write(context, second, PAD, height - 12, colours.text, { size: 10, alpha: 0.7, most: wide });
  }
}

function summary(cells) {
  const ranks = cells.map((c) => c.rank);
  const mean = ranks.reduce((sum, r) => sum + r, 0) / ranks.length;
  const megabytes = cells.reduce((sum, c) => sum + c.bytes, 0) / 1e6;
  return `${cells.length} layers, mean rank ${mean.toFixed(1)}, ${megabytes.toFixed(2)} MB`;
}

/** Two lines on a cell. */
function description(cell) {
  if (!cell) return ["", "Point at a cell to see its layer."];
  const { row, column, rank, max_rank, norm, bytes } = cell;
  const figures = [`rank ${rank} of ${max_rank}`, `norm ${norm.toPrecision(3)}`];
  figures.push(`${(bytes / 1e3).toFixed(1)} kB`);
  return [`${row}, ${column}: ${figures.join(", ")}`, cell.name];
}

/** Keeps the same map as a picture out of the node; it is still the node's IMAGE output. */
function hidePicture(node) {
  node.hideOutputImages = true; // enough for the Vue renderer, not for the classic one
  const background = node.onDrawBackground;
  node.onDrawBackground = function (...args) {
    return this.hideOutputImages ? undefined : background?.apply(this, args);
  };
}

app.registerExtension({
  name: "LoRA2.HeatmapView",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    hidePicture(node);
    const view = new HeatmapView(node);
    atLeast(node, 400, 400);
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (output?.[OUTPUT]?.[0]) view.show(output[OUTPUT][0]);
    };
  },
});
