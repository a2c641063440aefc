/** A node that failed says why inside its view; the front end's own message needs a click. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { html } from "../drawing/dom.js";
import { nodeOf } from "./find.js";

const views = new WeakMap(); // node -> element of its view
const shown = new Set(); // elements of the errors that are shown

/** Makes a node show its errors at the top of `root`, its view, until the next run begins. */
export function showFaults(node, root) {
  views.set(node, root);
}

function clear() {
  for (const fault of shown) fault.remove();
  shown.clear();
}

app.registerExtension({
  name: "LoRA2.Faults",
  setup() {
    api.addEventListener("execution_start", clear);
    api.addEventListener("execution_error", ({ detail }) => {
      const node = nodeOf(detail.node_id);
      // the id may be that of a node in another workflow
      if (!views.has(node) || node.comfyClass !== detail.node_type) return;
      const fault = html("div", { class: "note fault" }, String(detail.exception_message).trim());
      views.get(node).prepend(fault);
      shown.add(fault);
    });
  },
});
