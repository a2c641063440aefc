/** LoRA² Train shows its run while it goes: loss, ranks, size against the budget, time, pictures. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { amount } from "./colours.js";
import { Curve } from "./curve.js";
import { html } from "./dom.js";
import { endedRuns, remember } from "./ended.js";
import { keptAdvice, missing, onChange } from "./guide.js";
import { MapDrawing } from "./map_drawing.js";
import { duration, megabytes, pace, short } from "./numbers.js";
import { isLive, onOutput } from "./outputs.js";
import { nodeOf, rootGraph } from "./places.js";
import { Previews } from "./previews.js";
import { runsOf, stateOf, TrainState } from "./train_state.js";
import { addView, atLeast, makeRoom } from "./view.js";
import { say } from "./words.js";

const NODE = "LoRA2Train";
const EVENT = "lora2.train"; // of the server, and the key in the node's ui output
const HEIGHT = 420;
const CURVES = 120; // pixels of them, at least
const CELL = 13; // pixels, height of a layer's
const WIDE = 520; // pixels: the numbers in one row
const LOSS = [
  { key: "loss", colour: "var(--lora2-loss)", width: 1, opacity: 0.4 },
  { key: "smooth", colour: "var(--lora2-loss)" },
];
const RANK = [{ key: "mean_rank", colour: "var(--lora2-rank)" }];
const views = new WeakMap(); // node -> its view

class TrainView {
  state = new TrainState();
  previews = new Previews();
  loss = new Curve();
  rank = new Curve();
  map = new MapDrawing((name) => this.hover(name));
  built = null; // the map that is laid out
  hovered = null;
  events = 0;
  curves = html("div", { class: "fill" }, this.loss.element, this.rank.element);

  constructor(node) {
    this.root = addView(node, "train", HEIGHT, () => this.layout(), this.curves);
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
    const { dataset } = this.root;
    const { last, point } = state;
    this.prompt = last.prompt_id;
    this.note = last.ended ? endOf(last.ended) : last.kept ? say("Kept as {0}", last.kept) : "";
    this.previews.show(state.previews);
    if (this.empty.parentNode) this.empty.replaceWith(...this.body);
    Object.assign(dataset, {
      events: this.events, step: last.step, steps: last.steps, layers: this.state.map.cells.length,
      points: this.state.points.length, mb: point.mb, rank: point.mean_rank, loss: point.loss,
    });
    this.root.ariaLabel = last.text;
    this.advise();
    this.layout();
  }

  /** What is missing before the first run; after one, whether its adapter is kept. */
  advise() {
    this.empty.textContent = say(missing(this.node) ?? "Loss, ranks and size appear here during a run.");
    const told = [...(this.state.notes ?? [])];
    if (this.state.finished) told.push(keptAdvice(this.node));
    this.hints.textContent = told.filter(Boolean).map((t) => say(t)).join(" ");
    const hidden = !this.hints.textContent;
    if (hidden === this.hints.hidden) return;
    this.hints.hidden = hidden;
    this.layout(); // the curves have another height
  }

  /** A run has begun, and has nothing to show yet. */
  begun({ prompt_id, run }) {
    if (run === this.state.last?.run) return; // overtaken
    this.prompt = prompt_id;
    this.empty.textContent = say("Running. The first step comes when the model is ready.");
    this.note = ""; // of the run before
    if (this.state.last) this.describe();
  }

  /** The run ended before its last step, and before it had anything to tell. */
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
    const { last, points, point } = this.state;
    const width = this.root.clientWidth - 20;
    this.root.classList.toggle("wide", width >= WIDE);
    this.showNumbers(last, point);
    this.done.style.width = `${(100 * last.step) / last.steps}%`;

    const key = `${this.state.last.run} ${width}`;
    if (this.built !== key) {
      this.map.build(this.state.map, width, Infinity, CELL);
      this.map.element.setAttribute("aria-label", say("rank of every layer"));
      this.built = key;
    }
    const ranks = this.state.ranks;
    const greatest = Math.max(1, ...last.ranks);
    this.map.paint((name) => ({ ...amount(ranks[name] / greatest), text: String(ranks[name]) }));
    this.map.outline(this.hovered);
    this.describe();

    makeRoom(this.node, this.root, this.curves, CURVES);
    const high = this.curves.clientHeight;
    if (high < 40) return;
    const span = [Math.min(points[0].step, last.steps - 1), last.steps];
    const upper = Math.round(high * 0.6), ceiling = last.ceiling;
    const step = (p, at) => (at ? `${say("step")} ${p.step}: ` : "");
    this.loss.draw(width, upper, points, "step", span, LOSS, {
      title: (p, at) => `${step(p, at)}${say("loss")} ${short(p.loss)}, ${say("mean")} ${short(p.smooth)}`,
    });
    this.rank.draw(width, high - upper, points, "step", span, RANK, {
      title: (p, at) => `${step(p, at)}${say("mean rank")} ${p.mean_rank.toFixed(1)}, ${megabytes(p.mb)}`,
      limit: ceiling ? (ceiling / point.mb) * point.mean_rank : null,
    });
  }

  showNumbers(last, point) {
    const limit = last.ceiling ? ` / ${megabytes(last.ceiling)}` : "";
    const size = megabytes(point.mb).replace(limit ? " MB" : "", "");
    const time = this.state.finished
      ? [say("took"), duration(last.passed)]
      : [say("time left"), this.note ? "–" : duration(last.left)];
    const numbers = [
      [epochOf(last), `${last.step} / ${last.steps}`],
      [say("loss"), point.loss === null ? say("not a number") : short(point.smooth)],
      [say("mean rank"), point.mean_rank.toFixed(1)],
      [say(limit ? "size / limit" : "size"), `${size}${limit}`],
      [say("speed"), pace(last.pace)],
      time,
    ];
    this.tiles.replaceChildren(
      ...numbers.map(([name, value]) =>
        html("div", { class: "tile" }, html("b", { class: "line" }, value), html("small", {}, name)),
      ),
    );
  }

  /** The line above the map: the layer under the pointer, or what the run has come to. */
  describe() {
    const cell = this.state.map?.cells.find((c) => c.name === this.hovered);
    const where = cell && `${cell.row}, ${cell.column}: ${say("rank")} ${this.state.ranks[cell.name]}`;
    this.about.textContent = where || this.note || say("rank of every layer");
    this.about.title = cell?.name ?? "";
    this.root.dataset.hovered = cell?.name ?? "";
    this.root.dataset.note = this.note ?? "";
  }
}

/** "step", and in which epoch it is where the number of pictures is known. */
function epochOf({ epoch, epochs }) {
  if (!Number.isFinite(epoch) || !Number.isFinite(epochs)) return say("step");
  const [at, of] = epochs < 10 ? [epoch.toFixed(1), epochs.toFixed(1)] : [epoch, epochs].map(Math.floor);
  return `${say("step")} · ${say("epoch {0} / {1}", at, of)}`;
}

/** How a run ended before its last step, and where what it had learned is. */
function endOf({ why, kept }) {
  const what = say(why === "cancelled" ? "Cancelled." : "It failed: see the error.");
  return `${what} ${kept ? say("Kept so far: {0}", kept) : say("What it had learned could not be saved.")}`;
}

/** Shows the open workflow's runs that this page has followed, or that ended early before. */
function restoreRuns() {
  const workflow = rootGraph()?.id;
  for (const [node, state] of runsOf(workflow)) {
    isLive(nodeOf(node));
    viewOf({ node, workflow })?.show(state);
  }
  for (const event of endedRuns(workflow)) {
    const view = viewOf(event);
    if (!view || view.state.last) continue;
    isLive(nodeOf(event.node));
    view.add(event);
  }
}

/** The view that an event is for: node ids repeat in other workflows. */
function viewOf({ node, workflow }) {
  return (workflow ?? null) === (rootGraph()?.id ?? null) ? views.get(nodeOf(node)) : null;
}

app.registerExtension({
  name: "LoRA2.TrainView",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      const view = viewOf(detail);
      if (view) isLive(nodeOf(detail.node));
      if (detail.begun) return view?.begun(detail);
      if (!view) return void (detail.workflow && stateOf(detail).add(detail)); // its tab isn't open
      const begun = detail.run !== view.state.last?.run;
      view.add(detail);
      if (begun || detail.ended) remember(detail);
    });
    const stopped = (why) => ({ detail }) => {
      const view = views.get(nodeOf(detail.node_id));
      if (view?.prompt === detail.prompt_id) view?.stopped(say(why));
    };
    api.addEventListener("execution_interrupted", stopped("Cancelled."));
    api.addEventListener("execution_error", stopped("It failed: see the error."));
  },
  afterConfigureGraph: restoreRuns,
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const view = new TrainView(node);
    views.set(node, view);
    atLeast(node, 440, 0);
    onOutput(node, (output) => {
      if (output[EVENT]?.[0]) view.add(output[EVENT][0]);
    }, true);
  },
});
