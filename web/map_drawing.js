/** A rank map as SVG: blocks across in the order of the model, the modules of a block down. */

import { cut, svg, widthOf } from "./dom.js";
import { strips } from "./structure.js";

const LINE = 14; // height of a line of labels
const GAP = { side: 8, group: 3, modules: 4 }; // between down, mid and up; blocks; self and cross
const NUMBERS = 11; // least height of a cell with a number

export class MapDrawing {
  element = svg("svg", { class: "lora2-map", role: "img" });
  cells = new Map(); // name -> {cell, rect, text, x, y}
  mark = svg("rect", { class: "mark", visibility: "hidden" });

  /**
   * @param hover called with the name of the layer under the pointer, or null
   * @param pick called with (name, event) when a layer is clicked
   */
  constructor(hover = () => {}, pick = () => {}) {
    const nameAt = (event) => event.target?.dataset?.layer ?? null;
    this.element.addEventListener("pointermove", (event) => hover(nameAt(event)));
    this.element.addEventListener("pointerleave", () => hover(null));
    this.element.addEventListener("click", (event) => {
      if (nameAt(event)) pick(nameAt(event), event);
    });
  }

  /** Lays the map out in `width` and, as far as cells stay between 9 and `tallest`, `height`. */
  build(map, width, height, tallest = 48) {
    this.element.replaceChildren();
    this.cells.clear();
    const parts = strips(map);
    const titled = parts.length > 1;
    const lines = parts.reduce((sum, p) => sum + p.modules.length, 0);
    const labelled = parts.map((p) => headLines(p) + (titled ? 1 : 0));
    const heads = labelled.reduce((sum, n) => sum + n * LINE + 4, 0);
    const gaps = parts.reduce((sum, p) => sum + breaks(p.modules) * GAP.modules, 0);
    const tall = Math.min(tallest, Math.max(9, Math.floor((height - heads - gaps) / lines)));
    const margin = Math.min(
      width * 0.35,
      8 + Math.max(...parts.flatMap((p) => p.modules.map((m) => widthOf(m.label)))),
    );
    const across = parts.map((p) => (width - margin - gapsOf(p.blocks)) / p.blocks.length);
    this.wide = Math.min(...across, 96);
    this.tall = tall;
    let y = 0;
    for (const part of parts) {
      if (titled) {
        this.element.append(label(cut(part.title, width), 0, y + LINE / 2, "start"));
        y += LINE;
      }
      y = this.strip(part, map, { y, margin, tall }) + 4;
    }
    this.element.append(this.mark);
    this.height = y;
    this.element.setAttribute("width", width);
    this.element.setAttribute("height", y);
    this.element.setAttribute("viewBox", `0 0 ${width} ${y}`);
  }

  strip({ blocks, modules }, map, { y, margin, tall }) {
    const { wide } = this;
    const xs = new Map(), ys = new Map();
    let x = margin;
    let start = x;
    const top = y + headLines({ blocks }) * LINE;
    blocks.forEach((block, i) => {
      const before = blocks[i - 1];
      if (before && before.side !== block.side) x += GAP.side;
      else if (before && before.group !== block.group) x += GAP.group;
      if (!before || before.group !== block.group) start = x;
      xs.set(block.key, x);
      const middle = x + wide / 2;
      if (block.label && wide >= widthOf(block.label) + 2) {
        this.element.append(label(block.label, middle, top - LINE / 2));
      }
      x += wide;
      if (headLines({ blocks }) === 2 && blocks[i + 1]?.group !== block.group) {
        const text = fitting(block.group, x - start + 2 * GAP.group);
        this.element.append(label(text, (start + x) / 2, y + LINE / 2));
      }
    });
    let below = top;
    modules.forEach((module, i) => {
      if (i && modules[i - 1].group !== module.group) below += GAP.modules;
      ys.set(module.key, below);
      const text = cut(module.label, margin - 6);
      this.element.append(label(text, margin - 6, below + tall / 2, "end"));
      below += tall;
    });
    for (const cell of map.cells) {
      if (!xs.has(cell.row) || !ys.has(cell.column)) continue;
      this.place(cell, xs.get(cell.row), ys.get(cell.column));
    }
    return below;
  }

  place(cell, x, y) {
    const { wide, tall } = this;
    const gap = Math.min(1.5, wide / 7, tall / 7);
    const rect = svg("rect", {
      class: "cell", x, y, width: wide - gap, height: tall - gap, rx: Math.min(2, wide / 8),
      "data-layer": cell.name,
    });
    const text = svg("text", {
      x: x + (wide - gap) / 2, y: y + (tall - gap) / 2, "text-anchor": "middle",
    });
    this.element.append(rect, text);
    this.cells.set(cell.name, { rect, text, x, y });
  }

  /** Colours every cell: `look(name)` gives {fill, opacity, ink, text}. */
  paint(look) {
    const looks = new Map([...this.cells.keys()].map((name) => [name, look(name)]));
    const widest = Math.max(0, ...new Set([...looks.values()].map((l) => l.text.length)));
    const fits = this.tall >= NUMBERS && widthOf("0".repeat(widest)) <= this.wide - 2; // all or none
    for (const [name, { fill, opacity, ink, text: number }] of looks) {
      const { rect, text } = this.cells.get(name);
      const shown = fits ? number : "";
      rect.setAttribute("fill", fill);
      rect.setAttribute("fill-opacity", opacity);
      if (text.textContent !== shown) text.textContent = shown;
      if (fits) text.style.fill = ink;
    }
  }

  /** Outlines one cell, or none. */
  outline(name) {
    const at = this.cells.get(name);
    this.mark.setAttribute("visibility", at ? "visible" : "hidden");
    if (!at) return;
    const edges = { x: at.x - 1, y: at.y - 1, width: this.wide + 0.5, height: this.tall + 0.5, rx: 2 };
    for (const [edge, value] of Object.entries(edges)) this.mark.setAttribute(edge, value);
  }
}

function label(text, x, y, anchor = "middle") {
  return svg("text", { class: "label", x, y, "text-anchor": anchor }, text);
}

/** The name of a group of blocks, or its short form: "down 4" or "↓4". */
function fitting(group, most) {
  const short = group.replace(/^down /, "↓").replace(/^up /, "↑");
  return [group, short].find((text) => 0.85 * widthOf(text) <= most) ?? "";
}

function headLines({ blocks }) {
  return blocks.some((b) => b.group !== b.strip) ? 2 : 1;
}

function breaks(modules) {
  return modules.filter((m, i) => i && m.group !== modules[i - 1].group).length;
}

function gapsOf(blocks) {
  return blocks.reduce((sum, block, i) => {
    const before = blocks[i - 1];
    if (!before || before.group === block.group) return sum;
    return sum + (before.side !== block.side ? GAP.side : GAP.group);
  }, 0);
}
