/** Curves as SVG: an axis of steps or sizes, a few lines, a limit, and what is under the pointer. */

import { svg } from "./dom.js";
import { short } from "./numbers.js";

// pixels beside the curves
const MARGIN = 40; // left of them, for the values
const TOP = 15; // above them, for the title
const FOOT = 16; // below them, for the ends of the axis

export class Curve {
  element = svg("svg", { class: "lora2-curve" });
  at = null; // the x value under the pointer

  /** @param picked called with the x value under the pointer while it is pressed there */
  constructor(picked = null) {
    this.element.addEventListener("pointermove", (event) => {
      this.point(this.valueAt(event));
      if (picked && event.buttons & 1) picked(this.at);
    });
    this.element.addEventListener("pointerleave", () => this.point(null));
    if (!picked) return;
    this.element.style.cursor = "ew-resize";
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.element.setPointerCapture(event.pointerId);
      picked(this.valueAt(event));
    });
  }

  /**
   * Draws `lines` [{key, colour, width, opacity, points}] of `points`, or of a line's own points.
   *
   * @param span [least, greatest] x
   * @param options title(point, pointed): the text for the point under the pointer, else for the
   *   last point; limit: a dashed level; range: [low, high], else that of the values;
   *   here: an x to mark; ends: the texts at the two ends of the axis; best: an x to mark besides
   */
  draw(width, height, points, x, span, lines, options) {
    Object.assign(this, { width, height, points, x, span, lines, options });
    this.element.setAttribute("width", width);
    this.element.setAttribute("height", height);
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const values = lines
      .flatMap((l) => (l.points ?? points).map((p) => p[l.key]))
      .filter(Number.isFinite);
    const limit = Number.isFinite(options.limit) ? options.limit : null;
    let [low, high] = options.range ?? [
      Math.min(...values, limit ?? Infinity), Math.max(...values, limit ?? -Infinity),
    ];
    if (!Number.isFinite(low)) [low, high] = [0, 1];
    if (high - low < 1e-9 * Math.max(1, Math.abs(high))) [low, high] = [low - 0.5, high + 0.5];
    const across = (v) => MARGIN + ((width - MARGIN - 2) * (v - span[0])) / (span[1] - span[0] || 1);
    const foot = options.ends ? FOOT : 4;
    const up = (v) => TOP + ((height - TOP - foot) * (high - v)) / (high - low);
    Object.assign(this, { across, up, low });
    const level = (v, name) =>
      svg("line", { class: name, x1: MARGIN, x2: width, y1: up(v), y2: up(v) });
    const value = (v) => {
      const attributes = { class: "faint", x: MARGIN - 5, y: up(v), "text-anchor": "end" };
      return svg("text", attributes, short(v, 2));
    };
    this.title = svg("text", { x: MARGIN, y: 5 });
    this.marker = svg("g");
    this.element.replaceChildren(
      level(low, "grid"), level(high, "grid"), value(high), height > 40 ? value(low) : "",
      limit !== null ? level(limit, "limit") : "",
      Number.isFinite(options.best)
        ? svg("line", {
            class: "limit", x1: across(options.best), x2: across(options.best), y1: TOP, y2: up(low),
          })
        : "",
      ...lines.map((line) =>
        svg("path", {
          d: path(line.points ?? points, (p) => across(p[x]), (p) => p[line.key], up),
          stroke: line.colour, "stroke-width": line.width ?? 2, opacity: line.opacity ?? 1,
        }),
      ),
      ...(options.ends ?? []).map((text, i) => {
        const side = i ? { x: width - 2, "text-anchor": "end" } : { x: MARGIN };
        return svg("text", { class: "faint", y: height - 5, ...side }, text);
      }),
      this.title, this.marker,
    );
    this.point(this.at);
  }

  /** Returns the x value under the pointer, at any zoom of the graph. */
  valueAt(event) {
    if (!this.points?.length) return null;
    const box = this.element.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * this.width;
    const share = Math.min(1, Math.max(0, (px - MARGIN) / (this.width - MARGIN - 2)));
    return this.span[0] + share * (this.span[1] - this.span[0]);
  }

  /** Marks the point nearest to an x value, or the chosen one, or the last. */
  point(value) {
    this.at = value;
    if (!this.points?.length || !this.title) return;
    const wanted = value ?? this.options.here ?? null;
    const { x, across, up, low, lines } = this;
    const chosen = wanted === null ? this.points.at(-1) : nearest(this.points, x, wanted);
    this.title.textContent = this.options.title(chosen, value !== null);
    if (wanted === null) return this.marker.replaceChildren();
    const main = lines.at(-1), at = across(chosen[x]);
    this.marker.replaceChildren(
      svg("line", { class: "here", x1: at, x2: at, y1: TOP, y2: up(low) }),
      Number.isFinite(chosen[main.key])
        ? svg("circle", { cx: at, cy: up(chosen[main.key]), r: 3.5, fill: main.colour })
        : "",
    );
  }
}

/** Returns the point whose x is nearest to a value. */
export function nearest(points, x, value) {
  return points.reduce((a, b) => (Math.abs(b[x] - value) < Math.abs(a[x] - value) ? b : a));
}

/** Returns the path of a line; it has gaps where a value is not a number. */
function path(points, across, value, up) {
  let pen = "M";
  const parts = [];
  for (const point of points) {
    if (!Number.isFinite(value(point))) continue;
    parts.push(`${pen}${across(point).toFixed(1)} ${up(value(point)).toFixed(1)}`);
    pen = "L";
  }
  return parts.join("");
}
