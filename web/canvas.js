/** Drawing in a node: a canvas of its size, the theme's colours, a colour scale. */

import { passGestures } from "./graph_gestures.js";

// Cividis in nine even steps: even in lightness and safe for every kind of colour blindness.
const CIVIDIS = [
  [0, 34, 78], [28, 54, 112], [64, 74, 108], [90, 95, 109], [115, 117, 117],
  [143, 139, 120], [172, 163, 110], [205, 189, 93], [254, 232, 56],
];
const FONT = "Inter, system-ui, sans-serif";
const SHARPNESS = 2; // at least so many pixels a unit: the graph can be zoomed in

/** The CSS colour of a share in [0, 1]. */
export function cividis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mixed = CIVIDIS[low].map((c, i) => Math.round(c + (CIVIDIS[low + 1][i] - c) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

/**
 * Adds a canvas to the end of a node, in both renderers.
 *
 * @param node the LiteGraph node
 * @param name the widget's name; nothing of it is saved
 * @param minHeight its least height, in graph units
 * @param draw called with (context, width, height, colours) whenever it must be drawn
 * @returns {root, canvas, redraw}
 */
export function addCanvas(node, name, minHeight, draw) {
  const root = document.createElement("div");
  Object.assign(root.style, {
    position: "relative", width: "100%", height: "100%", minHeight: `${minHeight}px`,
    overflow: "hidden", borderRadius: "6px", boxSizing: "border-box",
    color: "var(--input-text, #ddd)", background: "var(--comfy-input-bg, #222)",
  });
  const canvas = document.createElement("canvas");
  Object.assign(canvas.style, { position: "absolute", inset: "0", width: "100%", height: "100%" });
  root.append(canvas);
  passGestures(root);

  let waiting = false;
  function paint() {
    waiting = false;
    const width = root.clientWidth, height = root.clientHeight;
    if (!width || !height) return;
    const scale = Math.max(window.devicePixelRatio || 1, SHARPNESS);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    draw(context, width, height, colours(root));
  }
  function redraw() {
    if (!waiting) requestAnimationFrame(paint);
    waiting = true;
  }

  const widget = node.addDOMWidget(name, "lora2_view", root, {
    serialize: false, hideOnZoom: false, getMinHeight: () => minHeight,
  });
  widget.serialize = false;
  const observer = new ResizeObserver(redraw);
  observer.observe(root);
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    observer.disconnect();
    return removed?.apply(this, args);
  };
  return { root, canvas, redraw };
}

/** Makes a node at least so large, now that its widgets are there. */
export function atLeast(node, width, height) {
  const [w, h] = node.computeSize();
  node.setSize([Math.max(node.size[0], w, width), Math.max(node.size[1], h, height)]);
}

/** The theme's colours, resolved, with two accents that are readable on them. */
function colours(root) {
  const style = getComputedStyle(root);
  const [r, g, b] = (style.backgroundColor.match(/[\d.]+/g) ?? [34, 34, 34]).map(Number);
  const dark = 0.3 * r + 0.59 * g + 0.11 * b < 128;
  return {
    text: style.color,
    loss: dark ? "#ffd95a" : "#8a6200",
    rank: dark ? "#86b6ff" : "#1f5fbf",
  };
}

/** Writes one line; `options`: size, align, weight, alpha, colour, most (its greatest width). */
export function write(context, text, x, y, colour, options = {}) {
  const { size = 11, align = "left", weight = 400, alpha = 1, most = Infinity } = options;
  context.save();
  context.font = `${weight} ${size}px ${FONT}`;
  context.textAlign = align;
  context.textBaseline = "middle";
  context.globalAlpha = alpha;
  context.fillStyle = colour;
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > most) {
    shown = `${shown.replace(/…$/, "").slice(0, -1)}…`;
  }
  context.fillText(shown, x, y);
  context.restore();
}

/** What a view says before there is anything to show. */
export function drawEmpty(context, width, height, colours, text) {
  const style = { size: 12, align: "center", alpha: 0.6, most: width - 20 };
  write(context, text, width / 2, height / 2, colours.text, style);
}

/** How wide a line is. */
export function widthOf(context, text, size = 11) {
  context.save();
  context.font = `400 ${size}px ${FONT}`;
  const { width } = context.measureText(text);
  context.restore();
  return width;
}

/** Where a pointer event is, in the units of `draw`, at any zoom. */
export function pointerAt(canvas, event) {
  const seen = canvas.getBoundingClientRect();
  return [
    ((event.clientX - seen.left) / seen.width) * canvas.clientWidth,
    ((event.clientY - seen.top) / seen.height) * canvas.clientHeight,
  ];
}
