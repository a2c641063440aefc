/** Colours and sizes from nodes.js for nodes that a user adds; a saved workflow keeps its own. */

import { app } from "../../../scripts/app.js";
import { contrast } from "../drawing/colours.js";
import { html } from "../drawing/dom.js";
import { colourOf } from "../drawing/theme.js";
import { entryOf, SOCKETS } from "../nodes.js";
import { growToSize } from "./view.js";

const TITLE = 4.5; // least contrast of a title on its node's colour, as WCAG 2 asks of text

/** Gives links and sockets their colours in the Vue renderer, which reads them from CSS. */
function colourSockets() {
  const lines = Object.entries(SOCKETS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
  document.head.append(html("style", {}, `:root { ${lines.join(" ")} }`));
}

/**
 * Gives links and sockets their colours in the classic renderer. A palette empties the entries that
 * it does not know at every change of theme, so each colour is a property that survives this.
 */
function colourLinks() {
  const tables = [window.LGraphCanvas?.link_type_colors, app.canvas?.default_connection_color_byType];
  for (const table of tables.filter(Boolean)) {
    for (const [type, colour] of Object.entries(SOCKETS)) {
      let own = table[type]; // a palette's own choice
      const property = { get: () => own || colour, set: (value) => (own = value) };
      Object.defineProperty(table, type, { ...property, enumerable: true, configurable: true });
    }
  }
}

/** Returns whether a title can be read on a colour; the front end lightens it in light palettes. */
function readableTitle(colour) {
  const lightened = getComputedStyle(document.documentElement).colorScheme === "light";
  return lightened || contrast(colourOf(window.LiteGraph.NODE_TITLE_COLOR), colourOf(colour)) >= TITLE;
}

colourSockets();

app.registerExtension({
  name: "LoRA2.Looks",
  setup: colourLinks,
  nodeCreated(node) {
    const { colour: name } = entryOf(node);
    if (!name || app.configuringGraph) return;
    const { bgcolor, color } = window.LGraphCanvas?.node_colors?.[name] ?? {};
    const colour = [bgcolor, color].find((c) => c && readableTitle(c)); // the second one is darker
    if (colour) node.color = colour;
    growToSize(node);
  },
});
