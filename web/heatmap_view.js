/** Rank Heatmap: every layer where it stands in its model; measures, comparison, export. */

import { app } from "../../scripts/app.js";
import { PAPER, amount, difference } from "./colours.js";
import { copy, cut, download, html } from "./dom.js";
import { csvBlob, pngBlob, standalone, svgBlob } from "./export.js";
import { missing, onChange } from "./guide.js";
import { leastHeight, MapDrawing } from "./map_drawing.js";
import { change, figures, measuresOf, patternOf } from "./measures.js";
import { megabytes, short, total } from "./numbers.js";
import { onOutput } from "./outputs.js";
import { united } from "./structure.js";
import { theme } from "./theme.js";
import { addView, atLeast, choice, makeRoom } from "./view.js";
import { say } from "./words.js";

const NODE = "LoRA2RankHeatmap";
const OUTPUT = "lora2_rank_map"; // in the node's ui output: one map, or two to compare
const FILES = "lora2_files"; // and of which files they are, null where of none
const HEIGHT = 260;
const HEAD = 24; // pixels above a map
const EXPORTED = 1152; // pixels, width of a map in a file
const INPUTS = ["lora2", "compare"];
const NAME = 130; // pixels, of a name before numbers

class HeatmapView {
  maps = null;
  measure = "rank";
  layout = "beside"; // of two maps: beside, or as a difference
  picked = []; // names of the layers whose pattern was copied last
  hovered = null;
  copied = null; // what was said when it was
  area = html("div", { class: "fill" });

  constructor(node) {
    this.node = node;
    this.root = addView(node, "heatmap", HEIGHT, () => this.draw(), this.area);
    this.empty = html("div", { class: "empty" });
    onChange(node, () => {
      this.empty.textContent = say(missing(node) ?? "Every layer's rank appears here after a run.");
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
    const { dataset } = this.root;
    dataset.layers = String(maps[0].cells.length);
    dataset.rows = JSON.stringify(this.all.rows);
    dataset.maps = String(maps.length);
    this.buttons();
    this.hover(null); // the texts, which leave the rest to the maps
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
    const name = this.names.filter(Boolean).join(" and ") || "lora2";
    download(`${name} ${this.measure}.${kind}`, blob);
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
      const title = `${this.called(1)} − ${this.called(0)}, ${this.unit(of[0])}`;
      return [{ title, look, scale, ends }];
    }
    const greatest = Math.max(...names.flatMap((n) => this.maps.map((_, i) => value(i, n) ?? 0))) || 1;
    const scale = [0, 0.25, 0.5, 0.75, 1].map((share) => amount(share));
    return this.maps.map((map, i) => ({
      scale, ends: ["0", [of[i].text(greatest), of[i].unit].filter(Boolean).join(" ")],
      title: `${this.names[i] || this.maps.length > 1 ? `${this.called(i)}: ` : ""}${summary(map)}`,
      look: (name) => {
        const v = value(i, name);
        return v === null ? nothing : { ...amount(v / greatest), text: of[i].text(v) };
      },
    }));
  }

  /** What a map is called, in a text of many. */
  called(i) {
    return cut(this.names[i] ?? INPUTS[i], NAME, 11);
  }

  unit({ unit }) {
    return unit ? `${say(this.measure)} (${unit})` : say(this.measure);
  }

  draw() {
    if (!this.maps || !this.root.clientWidth) return;
    const panels = this.panels();
    const width = this.root.clientWidth - 20;
    const height = Math.floor(this.area.clientHeight / panels.length) - HEAD;
    const held = this.area.contains(document.activeElement);
    const drawn = panels.map(({ title, look, scale, ends }) => {
      const drawing = this.drawing(width, height);
      drawing.paint(look);
      drawing.choose(this.picked);
      drawing.element.setAttribute("aria-label", `${title}. ${say("Arrow keys walk over the layers, Enter copies.")}`);
      const head = html("div", { class: "head" }, html("span", { class: "line" }, title), legend(scale, ends));
      return { drawing, element: html("div", {}, head, drawing.element) };
    });
    this.drawings = drawn.map((d) => d.drawing);
    this.area.replaceChildren(...drawn.map((d) => d.element));
    Object.assign(this.root.dataset, { measure: this.measure, layout: this.layout });
    if (held) this.drawings[0].element.focus({ preventScroll: true });
    this.hover(this.hovered);
    makeRoom(this.node, this.root, this.area, panels.length * (leastHeight(this.all) + HEAD));
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
    const two = pair.length > 1;
    this.first.textContent = `${where}${two ? ` · ${this.called(0)}` : ""}: ${told[0]}`;
    this.second.textContent = two ? `${this.called(1)}: ${told[1]} · ${cell.name}` : cell.name;
    this.first.title = this.second.title = cell.name;
  }

  /** Copies the pattern of a layer; with Shift, of those picked before too. */
  async pick(name, { shiftKey }) {
    const before = shiftKey ? this.picked.filter((n) => n !== name) : [];
    this.picked = [...before, name];
    const pattern = patternOf(this.picked);
    await copy(pattern);
    const { length } = this.picked;
    const many = length === 1 ? say("1 layer") : say("{0} layers", length);
    this.copied = say("Copied for LoRA² Target Options ({0}):", many);
    this.drawings.forEach((drawing) => drawing.choose(this.picked));
    this.root.dataset.copied = pattern;
    this.first.textContent = this.copied;
    this.second.textContent = pattern;
  }

  /** The map as a picture of its own. */
  picture() {
    const drawings = this.panels(PAPER).map(({ look, ...panel }) => {
      const drawing = this.drawing(EXPORTED, 10_000, 24);
      drawing.paint(look);
      return { ...panel, drawing };
    });
    const { [this.measure]: measure } = measuresOf(this.maps[0].cells);
    const names = this.names.filter(Boolean).join(", ");
    return standalone(`${names || "LoRA²"}: ${this.unit(measure)}`, drawings);
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

/** What the maps are of: their files, else the nodes that gave them; null where neither tells. */
function namesOf(node, maps, files) {
  const titles = INPUTS.map((name) => sourceOf(node, name)?.title ?? null);
  const names = maps.map((_, i) => files[i]?.split(/[\\/]/).at(-1).replace(/\.\w+$/, "") ?? titles[i]);
  if (maps.length < 2) return files[0] ? names : [null];
  if (names[0] !== names[1]) return names;
  return titles[0] !== titles[1] ? titles : [null, null];
}

/** The node that gives an input. */
function sourceOf(node, name) {
  const id = node.inputs?.find((i) => i.name === name)?.link;
  const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
  return node.graph?.getNodeById(link?.origin_id);
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
      if (output[OUTPUT]?.[0]) view.show(output[OUTPUT], output[FILES]);
    });
  },
});
