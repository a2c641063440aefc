/** LoRA² Train shows its run while it goes: loss, mean rank, size, and the rank of every layer. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addCanvas, atLeast, drawEmpty, pointerAt, write } from "./canvas.js";
import { drawCurve } from "./curve.js";
import { nodeOf } from "./execution_id.js";
import { rankMap } from "./places.js";
import { drawGrid, drawScale } from "./rank_grid.js";
import { TrainHistory } from "./train_history.js";

const NODE = "LoRA2Train";
const EVENT = "lora2.train";
const HEIGHT = 340;
const PAD = 10;
const LOSS = { keys: ["loss", "smooth"], title: "loss and its running mean", colour: "loss" };
const RANK = { keys: ["rank"], title: "mean rank", colour: "rank" };
const views = new WeakMap(); // node -> its view

class TrainView {
  history = new TrainHistory();
  map = null;
  hovered = null;
  cellAt = () => null;

  constructor(node) {
    const drawn = addCanvas(node, "lora2_train_view", HEIGHT, (...args) => this.draw(...args));
    Object.assign(this, drawn);
    this.root.dataset.lora2View = "train";
    this.root.dataset.events = "0";
    this.canvas.addEventListener("pointermove", (event) => {
      const hovered = this.cellAt(...pointerAt(this.canvas, event));
      if (hovered?.name !== this.hovered?.name) this.redraw();
      this.hovered = hovered;
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.hovered = null;
      this.redraw();
    });
  }

  /** Takes an event of the server. */
  add(event) {
    this.history.add(event);
    this.map = rankMap(event.ranks);
    const { dataset } = this.root;
    dataset.events = String(Number(dataset.events) + 1);
    dataset.step = String(event.step);
    dataset.layers = String(this.map.cells.length);
    this.canvas.ariaLabel = event.text;
    this.redraw();
  }

  /** The run ended before its last step. */
  stopped(why) {
    if (!this.history.last || this.history.last.step === this.history.last.steps) return;
    this.history.note = why;
    this.redraw();
  }

  draw(context, width, height, colours) {
    const { last, note, points } = this.history;
    if (!last) {
      drawEmpty(context, width, height, colours, "Loss, ranks and size appear here during a run.");
      return;
    }
    const wide = width - 2 * PAD;
    drawNumbers(context, last, wide, colours);
    const lines = Math.min(this.map.columns.length * 14, 150);
    const mapTop = height - PAD - lines - 46;
    const upper = (mapTop - 64) * 0.6, lower = mapTop - 64 - upper;
    const span = [points[0].step, last.steps];
    const loss = { x: PAD, y: 62, width: wide, height: upper - 8 };
    drawCurve(context, loss, points, span, LOSS, colours);
    const rank = { x: PAD, y: 62 + upper, width: wide, height: lower - 8 };
    drawCurve(context, rank, points, span, RANK, colours);

    const cell = this.hovered && this.map.cells.find((c) => c.name === this.hovered.name);
    const title = cell && `${cell.row}, ${cell.column}: rank ${cell.rank}`;
    const style = { size: 11, most: wide - 90, alpha: cell ? 1 : 0.75 };
    write(context, title || note || "rank of every layer", PAD, mapTop + 7, colours.text, style);
    drawScale(context, width - PAD, mapTop + 7, this.map.cells, colours);
    const box = { x: PAD, y: mapTop + 18, width: wide, height: lines + 28 };
    const axes = { xs: this.map.rows, x: (c) => c.row, ys: this.map.columns, y: (c) => c.column };
    this.cellAt = drawGrid(context, box, this.map.cells, axes, colours, this.hovered);
  }
}

/** The four numbers and the bar of progress. */
function drawNumbers(context, last, wide, colours) {
  const numbers = [
    ["step", `${last.step} / ${last.steps}`],
    ["loss", last.loss === null ? "not a number" : last.loss.toPrecision(3)],
    ["mean rank", last.mean_rank.toFixed(1)],
    ["size", `${last.mb.toFixed(2)} MB`],
  ];
  numbers.forEach(([name, value], i) => {
    const x = PAD + (i * wide) / numbers.length, most = wide / numbers.length - 4;
    write(context, name, x, 15, colours.text, { size: 10, alpha: 0.65, most });
    write(context, value, x, 32, colours.text, { size: 14, weight: 600, most });
  });
  context.save();
  context.fillStyle = colours.text;
  context.globalAlpha = 0.15;
  context.fillRect(PAD, 46, wide, 3);
  context.globalAlpha = 1;
  context.fillStyle = colours.rank;
  context.fillRect(PAD, 46, (wide * last.step) / last.steps, 3);
  context.restore();
}

app.registerExtension({
  name: "LoRA2.TrainView",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => views.get(nodeOf(detail.node))?.add(detail));
    const stopped = (why) => ({ detail }) => views.get(nodeOf(detail.node_id))?.stopped(why);
    const kept = "cancelled; kept in the loras folder, lora2/interrupted";
    api.addEventListener("execution_interrupted", stopped(kept));
    api.addEventListener("execution_error", stopped("failed: see the error"));
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    views.set(node, new TrainView(node));
    atLeast(node, 400, 0);
  },
});
