/** LoRA² Train shows its run while it goes on: loss, ranks, size against the budget, time, pictures. */

import { amount } from "../drawing/colours.js";
import { Curve, nearest } from "../drawing/curve.js";
import { html } from "../drawing/dom.js";
import { MapDrawing } from "../drawing/map_drawing.js";
import { megabytes, short } from "../drawing/numbers.js";
import { missing, nextStep, onChange } from "../graph/advice.js";
import { addView, makeRoom } from "../graph/view.js";
import { entryOf } from "../nodes.js";
import { stateOf, TrainState } from "../server/train_state.js";
import { say } from "../server/words.js";
import { Previews } from "./previews.js";
import { endOf, tilesOf } from "./train_texts.js";

// in pixels
const CURVES = 120; // least height of both curves: a line and its title can be read
const LEAST_CURVES = 40; // below this height nothing is drawn
const LOSS_SHARE = 0.6; // of the height, for the loss; the rest is for the ranks
const CELL = 13; // height of a layer: a line of its text
const WIDE = 520; // width from which all numbers stand in one row

const LOSS = [
  { key: "loss", colour: "var(--lora2-loss)", width: 1, opacity: 0.4 },
  { key: "smooth", colour: "var(--lora2-loss)" },
];
const HELD_OUT = { key: "validation", colour: "var(--lora2-ink)", width: 1.5 };
const RANK = [{ key: "mean_rank", colour: "var(--lora2-rank)" }];

export class TrainView {
  state = new TrainState();
  previews = new Previews();
  loss = new Curve();
  rank = new Curve();
  map = new MapDrawing((name) => this.hover(name));
  built = null; // run and width that the map is laid out for
  hovered = null; // name of the layer under the pointer
  note = ""; // what became of the run
  events = 0;
  curves = html("div", { class: "fill" }, this.loss.element, this.rank.element);

  constructor(node) {
    this.root = addView(node, () => this.layout(), this.curves);
    this.node = node;
    this.empty = html("div", { class: "empty" });
    this.hints = html("div", { class: "note", hidden: "" });
    onChange(node, () => this.advise());
    this.tiles = html("div", { class: "tiles" });
    this.done = html("i");
    this.about = html("div", { class: "line" });
    this.body = [
      this.tiles, html("div", { class: "track" }, this.done), this.hints, this.curves,
      this.previews.element, this.about, this.map.element,
    ];
    this.root.append(this.empty);
  }

  /** Takes an event of the server, or the last one of a finished run. */
  add(event) {
    this.events += 1;
    const state = event.workflow || !this.state.last ? stateOf(event) : this.state;
    if (state.add(event)) this.show(state);
  }

  /** Shows a run; the view may be in no document then, as of a collapsed node. */
  show(state) {
    this.state = state;
    const { last, point } = state;
    this.prompt = last.prompt_id;
    this.note = last.ended ? endOf(last.ended) : last.kept ? say("Kept as {0}", last.kept) : "";
    this.previews.show(state.previews);
    if (this.empty.parentNode) this.empty.replaceWith(...this.body);
    Object.assign(this.root.dataset, {
      events: this.events, step: last.step, steps: last.steps, layers: state.map.cells.length,
      points: state.points.length, mb: point.mb, rank: point.mean_rank, loss: point.loss,
    });
    this.root.ariaLabel = last.text;
    this.advise();
    this.layout();
  }

  /** Says what is missing before the first run, and after one whether its adapter is kept. */
  advise() {
    this.empty.textContent = say(missing(this.node) ?? entryOf(this.node).view.empty);
    const notes = [...(this.state.notes ?? [])];
    if (this.state.finished) notes.push(nextStep(this.node));
    this.hints.textContent = notes
      .filter(Boolean)
      .map((note) => say(...[note].flat()))
      .join(" ");
    const hidden = !this.hints.textContent;
    if (hidden === this.hints.hidden) return;
    this.hints.hidden = hidden;
    this.layout(); // the curves have another height now
  }

  /** Says that a run has begun, which has nothing to show yet. */
  begun({ prompt_id, run }) {
    if (run === this.state.last?.run) return; // a step of the run came before this event
    this.prompt = prompt_id;
    this.empty.textContent = say("Running. The first step comes when the model is ready.");
    this.note = ""; // it was about the run before
    if (this.state.last) this.describe();
  }

  /** Says why a run stopped before its last step, unless its own last event has said so. */
  stopped(why) {
    this.advise();
    if (!this.state.last || this.state.finished || this.note) return;
    this.note = why;
    this.describe();
  }

  hover(name) {
    this.hovered = name;
    this.map.outline(name);
    this.describe();
  }

  layout() {
    if (!this.state.last || !this.root.clientWidth) return;
    const { last } = this.state;
    const width = this.root.clientWidth - 20;
    this.root.classList.toggle("wide", width >= WIDE);
    this.tiles.replaceChildren(...tilesOf(this.state, Boolean(this.note)));
    this.done.style.width = `${(100 * last.step) / last.steps}%`;
    this.drawMap(width);
    this.describe();
    makeRoom(this.node, this.root, this.curves, CURVES);
    if (this.curves.clientHeight >= LEAST_CURVES) this.drawCurves(width, this.curves.clientHeight);
  }

  drawMap(width) {
    const { last, map, ranks } = this.state;
    const key = `${last.run} ${width}`;
    if (this.built !== key) {
      this.map.build(map, width, Infinity, CELL);
      this.map.element.setAttribute("aria-label", say("rank of every layer"));
      this.built = key;
    }
    const greatest = Math.max(1, ...last.ranks);
    this.map.paint((name) => ({ ...amount(ranks[name] / greatest), text: String(ranks[name]) }));
    this.map.outline(this.hovered);
  }

  drawCurves(width, height) {
    const { last, points, point, validation, best } = this.state;
    const span = [validation.length ? 0 : Math.min(points[0].step, last.steps - 1), last.steps];
    const upper = Math.round(height * LOSS_SHARE), { ceiling } = last;
    const step = (p, pointed) => (pointed ? `${say("step")} ${p.step}: ` : "");
    const lines = validation.length ? [{ ...HELD_OUT, points: validation }, ...LOSS] : LOSS;
    const heldOut = (p) =>
      validation.length
        ? `, ${say("held out")} ${short(nearest(validation, "step", p.step).validation)}`
        : "";
    this.loss.draw(width, upper, points, "step", span, lines, {
      title: (p, pointed) =>
        `${step(p, pointed)}${say("loss")} ${short(p.loss)}, ${say("mean")} ${short(p.smooth)}${heldOut(p)}`,
      best: validation.length > 1 ? best : null,
    });
    this.rank.draw(width, height - upper, points, "step", span, RANK, {
      title: (p, pointed) =>
        `${step(p, pointed)}${say("mean rank")} ${p.mean_rank.toFixed(1)}, ${megabytes(p.mb)}`,
      limit: ceiling ? (ceiling / point.mb) * point.mean_rank : null,
    });
  }

  /** Writes the line above the map: the layer under the pointer, or what became of the run. */
  describe() {
    const cell = this.state.map?.cells.find((c) => c.name === this.hovered);
    const layer = cell && `${cell.row}, ${cell.column}: ${say("rank")} ${this.state.ranks[cell.name]}`;
    this.about.textContent = layer || this.note || say("rank of every layer");
    this.about.title = cell?.name ?? "";
    this.root.dataset.hovered = cell?.name ?? "";
    this.root.dataset.note = this.note;
  }
}
