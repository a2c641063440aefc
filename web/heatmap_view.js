/** Rank Heatmap: every layer where it stands in its model; measures, comparison, export. */

import { app } from "../../scripts/app.js";
import { PAPER, amount, difference } from "./colours.js";
import { copy, download, html } from "./dom.js";
import { csvBlob, pngBlob, standalone, svgBlob } from "./export.js";
import { missing, onChange } from "./guide.js";
import { MapDrawing } from "./map_drawing.js";
import { change, figures, measuresOf, patternOf } from "./measures.js";
import { megabytes, short, total } from "./numbers.js";
import { onOutput } from "./outputs.js";
import { united } from "./structure.js";
import { theme } from "./theme.js";
import { addView, atLeast, choice } from "./view.js";
import { say } from "./words.js";

const NODE = "LoRA2RankHeatmap";
const OUTPUT = "lora2_rank_map"; // in the node's ui output: one map, or two to compare
const HEIGHT = 260;
const HEAD = 24; // pixels above a map
const EXPORTED = 1152; // pixels, width of a map in a file
const NAMES = ["lora2", "compare"]; // as the inputs are called

class HeatmapView {
  maps = null;
  measure = "rank";
  layout = "beside"; // of two maps: beside, or as a difference
  picked = []; // names of the layers whose pattern was copied last
  hovered = null;

  constructor(node) {
    this.root = addView(node, "heatmap", HEIGHT, () => this.draw());
    this.empty = html("div", { class: "empty" });
    onChange(node, () => {
      this.empty.textContent = say(missing(node) ?? "Every layer's rank appears here after a run.");
    });
    this.bar = html("div", { class: "bar" });
    this.area = html("div", { class: "fill" });
    this.first = html("div", { class: "line" });
    this.second = html("div", { class: "line faint" });
    this.root.append(this.empty);
  }

  show(maps) {
    this.maps = maps;
    this.all = maps.length > 1 ? united(maps) : maps[0];
    this.picked = [];
    this.hovered = null;
    this.root.replaceChildren(this.bar, this.area, this.first, this.second);
    const { dataset } = this.root;
    dataset.layers = String(maps[0].cells.length);
    dataset.rows = JSON.stringify(this.all.rows);
    dataset.maps = String(maps.length);
    this.buttons();
    this.draw();
  }

  buttons() {
    const measures = { rank: say("rank"), norm: say("norm"), bytes: say("bytes"), energy: say("energy") };
    const layouts = { beside: say("both"), difference: say("difference") };
    const set = (field) => (value) => {
      this[field] = value;
      this.draw();
    };
    const act = (text, title, click) => html("button", { type: "button", title, click }, text);
    this.bar.replaceChildren(
      choice(measures, this.measure, set("measure")),
      this.maps.length > 1 ? choice(layouts, this.layout, set("layout")) : "",
      html("span", { class: "push" }),
      html(
        "span", { class: "act" },
        act("PNG", say("Save as a picture"), async () => this.save("png", await pngBlob(this.picture()))),
        act("SVG", say("Save as a drawing"), () => this.save("svg", svgBlob(this.picture()))),
        act("CSV", say("Save as a table"), () => this.save("csv", csvBlob(this.maps, this.all.cells))),
      ),
    );
  }

  save(kind, blob) {
    download(`lora2 ${this.measure}.${kind}`, blob);
  }

  /** What stands below each other, in the colours of a palette: [{title, look}]. */
  panels(palette = theme) {
    const of = this.maps.map((map) => measuresOf(map.cells)[this.measure]);
    const at = (map) => new Map(map.cells.map((c) => [c.name, c]));
    const cells = this.maps.map(at);
    const value = (i, name) => (cells[i].has(name) ? of[i].of(cells[i].get(name)) : null);
    const names = this.all.cells.map((c) => c.name);
    const nothing = { fill: "currentColor", opacity: 0.1, ink: "currentColor", text: "" };
    if (this.maps.length > 1 && this.layout === "difference") {
      const apart = (name) => (value(1, name) ?? 0) - (value(0, name) ?? 0);
      const most = Math.max(...names.map((name) => Math.abs(apart(name)))) || 1;
      const look = (name) => ({ ...difference(apart(name) / most, palette), text: change(of[0], apart(name)) });
      const scale = [-1, -0.5, 0, 0.5, 1].map((share) => difference(share, palette));
      const ends = [change(of[0], -most), change(of[0], most)];
      return [{ title: say("compare − lora2, {0}", this.unit(of[0])), look, scale, ends }];
    }
    const greatest = Math.max(...names.flatMap((n) => this.maps.map((_, i) => value(i, n) ?? 0))) || 1;
    const scale = [0, 0.25, 0.5, 0.75, 1].map((share) => amount(share));
    return this.maps.map((map, i) => ({
      scale, ends: ["0", [of[i].text(greatest), of[i].unit].filter(Boolean).join(" ")],
      title: `${this.maps.length > 1 ? `${NAMES[i]}: ` : ""}${summary(map)}`,
      look: (name) => {
        const v = value(i, name);
        return v === null ? nothing : { ...amount(v / greatest), text: of[i].text(v) };
      },
    }));
  }

  unit({ unit }) {
    return unit ? `${say(this.measure)} (${unit})` : say(this.measure);
  }

  draw() {
    if (!this.maps || !this.root.clientWidth) return;
    const panels = this.panels();
    const width = this.root.clientWidth - 20;
    const height = this.area.clientHeight / panels.length - HEAD;
    const drawn = panels.map(({ title, look, scale, ends }) => {
      const drawing = this.drawing(width, height);
      drawing.paint(look);
      const head = html("div", { class: "head" }, html("span", { class: "line" }, title), legend(scale, ends));
      return { drawing, element: html("div", {}, head, drawing.element) };
    });
    this.drawings = drawn.map((d) => d.drawing);
    this.area.replaceChildren(...drawn.map((d) => d.element));
    Object.assign(this.root.dataset, { measure: this.measure, layout: this.layout });
    this.hover(this.hovered);
  }

  drawing(width, height, tallest) {
    const drawing = new MapDrawing((name) => this.hover(name), (name, event) => this.pick(name, event));
    drawing.build(this.all, width, height, tallest);
    return drawing;
  }

  hover(name) {
    this.hovered = name;
    this.drawings?.forEach((drawing) => drawing.outline(name));
    this.root.dataset.hovered = name ?? "";
    const cell = this.all.cells.find((c) => c.name === name);
    if (!cell) {
      this.first.textContent = this.copied ?? say("Point at a layer to see its numbers.");
      this.second.textContent = this.copied
        ? patternOf(this.picked)
        : say("Click copies its pattern for LoRA² Target Options, Shift-click adds more.");
      return;
    }
    this.copied = null;
    const pair = cell.pair ?? [cell];
    const told = pair.map((c, i) => figures(c, this.maps[i].cells, say));
    const where = `${cell.row}, ${cell.column}`.replace(/^, /, "");
    this.first.textContent = pair.length > 1 ? `${NAMES[0]}: ${told[0]}` : `${where}: ${told[0]}`;
    this.second.textContent = pair.length > 1 ? `${NAMES[1]}: ${told[1]} · ${cell.name}` : cell.name;
    this.first.title = this.second.title = cell.name;
  }

  /** Copies the pattern of a layer; with Shift, of those picked before too. */
  async pick(name, { shiftKey }) {
    const before = shiftKey ? this.picked.filter((n) => n !== name) : [];
    this.picked = [...before, name];
    const pattern = patternOf(this.picked);
    await copy(pattern);
    this.copied = say("Copied for LoRA² Target Options ({0}):", say("{0} layers", this.picked.length));
    this.root.dataset.copied = pattern;
    this.first.textContent = this.copied;
    this.second.textContent = pattern;
  }

  /** The map as a picture of its own. */
  picture() {
    const drawings = this.panels(PAPER).map(({ title, look }) => {
      const drawing = this.drawing(EXPORTED, 10_000, 24);
      drawing.paint(look);
      return { title, drawing };
    });
    const { [this.measure]: measure } = measuresOf(this.maps[0].cells);
    return standalone(`LoRA²: ${this.unit(measure)}`, drawings, EXPORTED);
  }
}

/** The scale of the colours between its two ends. */
function legend(scale, [low, high]) {
  const colours = scale.map(
    ({ fill, opacity }) => `color-mix(in srgb, ${fill} ${100 * opacity}%, transparent)`,
  );
  const bar = html("i");
  bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
  return html("span", { class: "scale" }, low, bar, high);
}

function summary({ cells }) {
  const mean = total(cells, (c) => c.rank) / (cells.length || 1);
  const size = total(cells, (c) => c.bytes) / 1e6;
  return say("{0} layers, mean rank {1}, {2}", cells.length, mean.toFixed(1), megabytes(size));
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
    atLeast(node, 480, 420);
    onOutput(node, (output) => {
      if (output[OUTPUT]?.[0]) view.show(output[OUTPUT]);
    });
  },
});
