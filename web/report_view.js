/** Nodes whose result is a few lines of text show it in the node. */

import { app } from "../../scripts/app.js";
import { atLeast } from "./canvas.js";
import { passGestures } from "./graph_gestures.js";

// what stands there before the first run
const EMPTY = {
  LoRA2Dataset: "Counts, sizes and skipped files appear here after a run.",
  LoRA2Info: "Size, ranks and training facts appear here after a run.",
  LoRA2Compress: "Sizes and the error appear here after a run.",
  LoRA2Save: "Name and size of the file appear here after a run.",
};
const OUTPUT = "text"; // in the node's ui output
const HEIGHT = { LoRA2Dataset: 110, LoRA2Info: 170, LoRA2Compress: 44, LoRA2Save: 44 };

/** Adds a field of plain text to the end of a node; nothing of it is saved. */
function addText(node) {
  const height = HEIGHT[node.comfyClass];
  const root = document.createElement("div");
  Object.assign(root.style, {
    width: "100%", height: "100%", minHeight: `${height}px`, padding: "6px 8px",
    overflow: "auto", borderRadius: "6px", boxSizing: "border-box", userSelect: "text",
    font: "11px Inter, system-ui, sans-serif", lineHeight: "1.4", whiteSpace: "pre-wrap",
    overflowWrap: "anywhere",
    color: "var(--input-text, #ddd)", background: "var(--comfy-input-bg, #222)",
  });
  root.dataset.lora2View = "report";
  root.textContent = EMPTY[node.comfyClass];
  passGestures(root);
  const widget = node.addDOMWidget("lora2_report_view", "lora2_view", root, {
    serialize: false, hideOnZoom: false, getMinHeight: () => height,
  });
  widget.serialize = false;
  return root;
}

app.registerExtension({
  name: "LoRA2.ReportView",
  nodeCreated(node) {
    if (!(node.comfyClass in EMPTY)) return;
    const root = addText(node);
    atLeast(node, 340, 0);
    const show = (output) => {
      const text = output?.[OUTPUT]?.[0];
      if (text) root.textContent = text; // file names are in it: never as HTML
    };
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      show(output);
    };
    // A workflow tab that is opened again has its outputs, but its nodes are new.
    requestAnimationFrame(() => show(app.nodeOutputs?.[node.id]));
  },
});
