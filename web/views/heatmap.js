/**
 * Rank Heatmap: shows each layer at its place in the model. It has a choice of measures, compares two
 * adapters, and saves the map as a file.
 */

import { app } from "../../../scripts/app.js";
import { PAPER } from "../drawing/colours.js";
import { copy, download, html } from "../drawing/dom.js";
import { csvBlob, pngBlob, standalone, svgBlob } from "../drawing/export.js";
import { MapDrawing } from "../drawing/map_drawing.js";
import { leastHeight } from "../drawing/map_sizes.js";
import { figures, patternOf } from "../drawing/measures.js";
import { united } from "../drawing/strips.js";
import { theme } from "../drawing/theme.js";
import { missing, onChange } from "../graph/advice.js";
import { addView, choice, growToSize, hasView, makeRoom } from "../graph/view.js";
import { entryOf } from "../nodes.js";
import { onOutput } from "../server/outputs.js";
import { say } from "../server/words.js";
import { colourScale, measureTitle, namesOf, panelsOf, shortName } from "./heatmap_panels.js";

const OUTPUT = "lora2_rank_map"; // key in the node's ui output: one map, or two maps to compare
const FILES = "lora2_files"; // another key: the file of each map, null if the adapter has no file
const HEAD = 24; // pixels above a map, for its title and its colour scale
const EXPORTED = 1152; // pixels, width of a map in a file
const EXPORTED_CELL = 24; // pixels, height of a cell in a file

class HeatmapView {
  maps = null;
  measure = "rank";
  layout = "beside"; // of two maps: "beside" each other, or their "difference"
  picked = []; // names of the layers in the pattern that was copied last
  hovered = null; // name of the layer under the pointer
  copied = null; // the text that says that a pattern was copied, while it is shown
  area = html("div", { class: "fill" });

  constructor(node) {
    this.node = node;
    this.root = addView(node, () => this.draw(), this.area);
    this.empty = html("div", { class: "empty" });
    onChange(node, () => {
      this.empty.textContent = say(missing(node) ?? entryOf(node).view.empty);
    });
    this.bar = html("div", { class: "bar" });
    this.first = html("div", { class: "line", role: "status" });
    this.second = html("div", { class: "line faint" });
    this.root.append(this.empty);
  }

  show(maps, files = []) {
    this.maps = maps;
    this.names = namesOf(this.node, maps, files);
    this.all = maps.length > 1 ? united(maps) : maps[0];
    this.picked = [];
    this.hovered = this.copied = null;
    this.root.replaceChildren(this.bar, this.area, this.first, this.second);
    Object.assign(this.root.dataset, {
      layers: maps[0].cells.length, rows: JSON.stringify(this.all.rows), maps: maps.length,
    });
    this.fillBar();
    this.hover(null); // writes the texts, which leave the rest of the height to the maps
    this.draw();
  }

  fillBar() {
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
    const name = this.names.filter(Boolean).join(" and ") || "lora2";
    download(`${name} ${this.measure}.${kind}`, blob);
  }

  draw() {
    if (!this.maps || !this.root.clientWidth) return;
    const panels = panelsOf(this, theme);
    const width = this.root.clientWidth - 20;
    const height = Math.floor(this.area.clientHeight / panels.length) - HEAD;
    const focused = this.area.contains(document.activeElement);
    const drawn = panels.map(({ title, look, scale, ends }) => {
      const drawing = this.drawing(width, height);
      drawing.paint(look);
      drawing.choose(this.picked);
      drawing.element.setAttribute("aria-label", `${title}. ${say("Arrow keys move from layer to layer, Enter copies the pattern.")}`);
      const head = html("div", { class: "head" }, html("span", { class: "line" }, title), colourScale(scale, ends));
      return { drawing, element: html("div", {}, head, drawing.element) };
    });
    this.drawings = drawn.map((d) => d.drawing);
    this.area.replaceChildren(...drawn.map((d) => d.element));
    Object.assign(this.root.dataset, { measure: this.measure, layout: this.layout });
    if (focused) this.drawings[0].element.focus({ preventScroll: true });
    this.hover(this.hovered);
    makeRoom(this.node, this.root, this.area, panels.length * (leastHeight(this.all) + HEAD));
  }

  drawing(width, height, tallest) {
    const drawing = new MapDrawing((name) => this.hover(name), (name, event) => this.pick(name, event));
    drawing.build(this.all, width, height, tallest);
    return drawing;
  }

  /** Writes the numbers of the layer under the pointer. With no layer there, says what a user can do. */
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
    const numbers = pair.map((c, i) => figures(c, this.maps[i].cells, say));
    const layer = `${cell.row}, ${cell.column}`.replace(/^, /, "");
    const two = pair.length > 1;
    this.first.textContent = `${layer}${two ? ` · ${shortName(this.names, 0)}` : ""}: ${numbers[0]}`;
    this.second.textContent = two ? `${shortName(this.names, 1)}: ${numbers[1]} · ${cell.name}` : cell.name;
    this.first.title = this.second.title = cell.name;
  }

  /** Copies the pattern of a layer. With Shift, the pattern also has the layers picked before. */
  async pick(name, { shiftKey }) {
    const before = shiftKey ? this.picked.filter((n) => n !== name) : [];
    this.picked = [...before, name];
    const pattern = patternOf(this.picked);
    await copy(pattern);
    const { length } = this.picked;
    const count = length === 1 ? say("1 layer") : say("{0} layers", length);
    this.copied = say("Copied for LoRA² Target Options ({0}):", count);
    this.drawings.forEach((drawing) => drawing.choose(this.picked));
    this.root.dataset.copied = pattern;
    this.first.textContent = this.copied;
    this.second.textContent = pattern;
  }

  /** Returns the maps that are shown as one SVG element, for a file. */
  picture() {
    const drawings = panelsOf(this, PAPER).map(({ look, ...panel }) => {
      const drawing = this.drawing(EXPORTED, 10_000, EXPORTED_CELL); // a height that never limits
      drawing.paint(look);
      return { ...panel, drawing };
    });
    const names = this.names.filter(Boolean).join(", ");
    return standalone(`${names || "LoRA²"}: ${measureTitle(this.measure)}`, drawings);
  }
}

/** Hides the picture that the server sends, since the node draws the map itself. Its output stays. */
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
    if (!hasView(node, "heatmap")) return;
    hidePicture(node);
    const view = new HeatmapView(node);
    growToSize(node);
    onOutput(node, (output) => {
      if (output[OUTPUT]?.[0]) view.show(output[OUTPUT], output[FILES]);
    });
  },
});
