/** Why a node failed, said in the node: the front end's own message has it only after a click. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { html } from "./dom.js";
import { nodeOf } from "./places.js";

const places = new WeakMap(); // node -> the element that it shows things in
const shown = new Set();

/** The node says in `root`, above all else, why it failed; until something is run again. */
export function saysFaults(node, root) {
  places.set(node, root);
}

function forget() {
  for (const fault of shown) fault.remove();
  shown.clear();
}

app.registerExtension({
  name: "LoRA2.Faults",
  setup() {
    api.addEventListener("execution_start", forget);
    api.addEventListener("execution_error", ({ detail }) => {
      const node = nodeOf(detail.node_id);
      if (!places.has(node) || node.comfyClass !== detail.node_type) return; // of another workflow
      const fault = html("div", { class: "note fault" }, String(detail.exception_message).trim());
      places.get(node).prepend(fault);
      shown.add(fault);
    });
  },
});
