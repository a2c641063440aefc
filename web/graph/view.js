/** A view at the end of a node: an element in the theme's colours, in both renderers. */

import { html } from "../drawing/dom.js";
import { onTheme } from "../drawing/theme.js";
import { entryOf } from "../nodes.js";
import { showFaults } from "./faults.js";
import { passGestures } from "./gestures.js";

const STYLE = new URL("../lora2.css", import.meta.url).href;
document.head.append(html("link", { rel: "stylesheet", href: STYLE }));

const heights = new WeakMap(); // element of a view -> pixels that its content needs

/** Returns whether a node shows a view of this kind, as nodes.js says. */
export function hasView(node, kind) {
  return entryOf(node).view?.kind === kind;
}

/**
 * Adds an empty view to the end of a node, of the kind and least height that nodes.js gives; nothing
 * of it is saved. Returns its element.
 *
 * @param node the LiteGraph node
 * @param redraw called at first, and when the size or the colours of the view change
 * @param measured a part of the view that fills the space which the rest leaves; its size changes
 *   with every text beside it, and then `redraw` is called too
 */
export function addView(node, redraw = () => {}, measured = null) {
  const { kind, height } = entryOf(node).view;
  const root = html("div", { class: "lora2-view", "data-lora2-view": kind });
  passGestures(root);
  showFaults(node, root);
  const getMinHeight = () => Math.max(height, heights.get(root) ?? 0);
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
  const stopFollowing = onTheme(draw);
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    observer.disconnect();
    stopFollowing();
    return removed?.apply(this, args);
  };
  return root;
}

/** Grows the node of a view until `part` of the view has `least` pixels beside everything else. */
export function makeRoom(node, root, part, least) {
  if (!root.clientHeight) return; // not laid out
  const height = Math.ceil(root.scrollHeight - part.clientHeight + least);
  heights.set(root, height);
  const widget = node.widgets?.find((w) => w.element === root);
  root.style.minHeight = `${widget?.options.getMinHeight() ?? height}px`;
  const [, lowest] = node.computeSize();
  if (node.size[1] < lowest && !node.flags?.collapsed) node.setSize([node.size[0], lowest]);
}

/** Grows a node to the size that nodes.js gives it and to what its widgets need. */
export function growToSize(node) {
  const [width, height] = entryOf(node).size;
  const [w, h] = node.computeSize();
  node.setSize([Math.max(node.size[0], w, width), Math.max(node.size[1], h, height)]);
}

/**
 * Returns a row of buttons {value: text} of which one is pressed; `chosen(value)` is called when
 * another one is.
 */
export function choice(options, value, chosen) {
  const buttons = Object.entries(options).map(([key, text]) => {
    const click = () => {
      press(key);
      chosen(key);
    };
    return html("button", { type: "button", "data-value": key, click }, text);
  });
  function press(key) {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.value === key));
    }
  }
  press(value);
  return html("span", { class: "choice", role: "group" }, ...buttons);
}
