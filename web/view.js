/** A view at the end of a node: an element of the theme's colours, in both renderers. */

import { html } from "./dom.js";
import { saysFaults } from "./faults.js";
import { passGestures } from "./graph_gestures.js";
import { onTheme } from "./theme.js";

const STYLE = new URL("./lora2.css", import.meta.url).href;
document.head.append(html("link", { rel: "stylesheet", href: STYLE }));

const rooms = new WeakMap(); // element of a view -> pixels that its content needs

/**
 * Adds an empty view to the end of a node; nothing of it is saved.
 *
 * @param node the LiteGraph node
 * @param kind what it shows; data-lora2-view of its element
 * @param minHeight its least height in graph units, or a function that gives it
 * @param redraw called when it, or the `measured` part of it, has another size or colours, and at
 *   first: the part that fills what the rest leaves changes with every text beside it
 * @returns its element
 */
export function addView(node, kind, minHeight, redraw = () => {}, measured = null) {
  const root = html("div", { class: "lora2-view", "data-lora2-view": kind });
  passGestures(root);
  saysFaults(node, root);
  const own = typeof minHeight === "function" ? minHeight : () => minHeight;
  const getMinHeight = () => Math.max(own(), rooms.get(root) ?? 0);
  const widget = node.addDOMWidget(`lora2_${kind}_view`, "lora2_view", root, {
    serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight,
  });
  widget.serialize = false;
  root.style.minHeight = `${getMinHeight()}px`; // the Vue renderer asks the element
  const draw = () => {
    if (root.clientWidth && root.clientHeight) redraw(root.clientWidth, root.clientHeight);
  };
  const observer = new ResizeObserver(draw);
  observer.observe(root);
  if (measured) observer.observe(measured);
  const ended = onTheme(draw);
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    observer.disconnect();
    ended();
    return removed?.apply(this, args);
  };
  return root;
}

/** The node of a view grows until `part` of it has `wanted` pixels beside all else that it shows. */
export function makeRoom(node, root, part, wanted) {
  if (!root.clientHeight) return; // not laid out
  const height = Math.ceil(root.scrollHeight - part.clientHeight + wanted);
  rooms.set(root, height);
  const widget = node.widgets?.find((w) => w.element === root);
  root.style.minHeight = `${widget?.options.getMinHeight() ?? height}px`;
  const [, least] = node.computeSize();
  if (node.size[1] < least && !node.flags?.collapsed) node.setSize([node.size[0], least]);
}

/** Makes a node at least so large, now that its widgets are there. */
export function atLeast(node, width, height) {
  const [w, h] = node.computeSize();
  node.setSize([Math.max(node.size[0], w, width), Math.max(node.size[1], h, height)]);
}

/** Buttons of which one is pressed: {value: text}. `chosen(value)` is called when it changes. */
export function choice(options, value, chosen) {
  const buttons = Object.entries(options).map(([key, text]) =>
    html("button", { type: "button", "data-value": key, click: () => press(key, true) }, text),
  );
  function press(key, tell = false) {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.value === key));
    }
    if (tell) chosen(key);
  }
  press(value);
  return html("span", { class: "choice", role: "group" }, ...buttons);
}
