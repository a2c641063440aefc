/** Draws a rank map as SVG. Columns are the blocks in the order of the model, rows are the modules. */

import { cut, svg, widthOf } from "./dom.js";
import { GAP, gapsOf, headLines, heights, LEAST, LINE, strideOf } from "./map_sizes.js";
import { strips } from "./strips.js";

const TALLEST = 48; // pixels, greatest height of a cell
const WIDEST = 96; // pixels, greatest width of a cell
const WALK = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class MapDrawing {
  element = svg("svg", { class: "lora2-map", role: "application", tabindex: "0" });
  cells = new Map(); // name -> {cell, rect, text, x, y}
  mark = svg("rect", { class: "mark", visibility: "hidden" });

  /**
   * @param hover called with the name of the layer under the pointer, or null
   * @param pick called with (name, event) when a layer is clicked
   */
  constructor(hover = () => {}, pick = () => {}) {
    const nameAt = (event) => event.target?.dataset?.layer ?? null;
    const walk = (event) => this.walk(event, hover, pick);
    this.element.addEventListener("keydown", walk);
    this.element.addEventListener("blur", () => hover(null));
    this.element.addEventListener("pointermove", (event) => hover(nameAt(event)));
    this.element.addEventListener("pointerleave", () => hover(null));
    this.element.addEventListener("click", (event) => {
      if (nameAt(event)) pick(nameAt(event), event);
    });
  }

  /**
   * Lays the map out in `width` and, if possible, `height` pixels. A cell is LEAST to `tallest` pixels
   * high, so a map of many layers becomes higher than `height`.
   */
  build(map, width, height, tallest = TALLEST) {
    this.element.replaceChildren();
    this.cells.clear();
    this.used = 0; // pixels from the left edge to the end of the last cell
    const parts = strips(map);
    const titled = parts.length > 1;
    const { lines, rest } = heights(parts);
    const tall = Math.min(tallest, Math.max(LEAST, Math.floor((height - rest) / lines)));
    const margin = Math.min(
      width * 0.35,
      8 + Math.max(...parts.flatMap((p) => p.modules.map((m) => widthOf(m.label)))),
    );
    const across = parts.map((p) => (width - margin - gapsOf(p.blocks)) / p.blocks.length);
    this.wide = Math.min(...across, WIDEST);
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

  /** Draws one strip with its labels; returns the y of its lower edge. */
  strip({ blocks, modules }, map, { y, margin, tall }) {
    const { wide } = this;
    const xs = new Map(), ys = new Map();
    let x = margin;
    let start = x;
    const top = y + headLines({ blocks }) * LINE;
    const stride = strideOf(blocks, wide);
    blocks.forEach((block, i) => {
      const before = blocks[i - 1];
      if (before && before.side !== block.side) x += GAP.side;
      else if (before && before.group !== block.group) x += GAP.group;
      if (!before || before.group !== block.group) start = x;
      xs.set(block.key, x);
      const middle = x + wide / 2;
      if (block.label && stride && (/^\d+$/.test(block.label) ? block.label : i) % stride === 0) {
        this.element.append(label(block.label, middle, top - LINE / 2));
      }
      x += wide;
      if (headLines({ blocks }) === 2 && blocks[i + 1]?.group !== block.group) {
        const text = fitting(block.group, x - start + 2 * GAP.group);
        this.element.append(label(text, (start + x) / 2, y + LINE / 2));
      }
    });
    this.used = Math.max(this.used, x);
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
      this.addCell(cell, xs.get(cell.row), ys.get(cell.column));
    }
    return below;
  }

  /** Adds a rectangle and a text element for a cell. `paint` gives them colour and number later. */
  addCell(cell, x, y) {
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

  /** Paints each cell as `look(name)` says: its fill, opacity, ink (colour of the number) and text. */
  paint(look) {
    const looks = new Map([...this.cells.keys()].map((name) => [name, look(name)]));
    const widest = Math.max(0, ...new Set([...looks.values()].map((l) => l.text.length)));
    const fits = widthOf("0".repeat(widest)) <= this.wide - 2; // numbers are shown in all cells or in none
    for (const [name, { fill, opacity, ink, text: number }] of looks) {
      const { rect, text } = this.cells.get(name);
      const shown = fits ? number : "";
      rect.setAttribute("fill", fill);
      rect.setAttribute("fill-opacity", opacity);
      if (text.textContent !== shown) text.textContent = shown;
      if (fits) text.style.fill = ink;
    }
  }

  /** Marks the layers that were picked. */
  choose(names) {
    for (const [name, { rect }] of this.cells) rect.classList.toggle("picked", names.includes(name));
  }

  /** Handles keys: an arrow key goes to the next layer, Enter or the space bar picks a layer. */
  walk(event, hover, pick) {
    const direction = WALK[event.key];
    if (direction) hover(this.beside(this.here, direction));
    else if (this.here && ["Enter", " "].includes(event.key)) pick(this.here, event);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the graph has other uses for these keys
  }

  /**
   * Returns the name of the next layer in a direction. At an edge it is the same layer; if `name` is
   * no layer, it is the first one.
   */
  beside(name, [right, down]) {
    const from = this.cells.get(name);
    if (!from) return this.cells.keys().next().value ?? null;
    let best = name, least = Infinity;
    for (const [other, { x, y }] of this.cells) {
      const along = (x - from.x) * right + (y - from.y) * down;
      const aside = Math.abs((x - from.x) * down) + Math.abs((y - from.y) * right);
      const far = along + 4 * aside;
      if (along > 0.5 && far < least) [best, least] = [other, far];
    }
    return best;
  }

  /** Outlines the cell of a layer, or removes the outline if `name` is no layer. */
  outline(name) {
    const at = this.cells.get(name);
    this.here = at ? name : null;
    this.mark.setAttribute("visibility", at ? "visible" : "hidden");
    if (!at) return;
    const edges = { x: at.x - 1, y: at.y - 1, width: this.wide + 0.5, height: this.tall + 0.5, rx: 2 };
    for (const [edge, value] of Object.entries(edges)) this.mark.setAttribute(edge, value);
  }
}

function label(text, x, y, anchor = "middle") {
  return svg("text", { class: "label", x, y, "text-anchor": anchor }, text);
}

/** Returns the name of a group of blocks in the longest form that fits: "down 4", "↓4" or "". */
function fitting(group, most) {
  const short = group.replace(/^down /, "↓").replace(/^up /, "↑");
  return [group, short].find((text) => 0.85 * widthOf(text) <= most) ?? "";
}
