/** Nodes whose result is a few lines of text show it in the node. */

import { app } from "../../scripts/app.js";
import { html } from "./dom.js";
import { missing, onChange } from "./guide.js";
import { onOutput } from "./outputs.js";
import { uploadBar } from "./upload.js";
import { addView, atLeast } from "./view.js";
import { say } from "./words.js";

// what stands there before the first run
const EMPTY = {
  LoRA2Dataset: "Counts, sizes and skipped files appear here after a run.",
  LoRA2Layers: "The layers that would be trained appear here after a run.",
  LoRA2Info: "Size, ranks and training facts appear here after a run.",
  LoRA2Evaluate: "The scores appear here after a run.",
  LoRA2Compress: "Sizes and the error appear here after a run.",
  LoRA2Save: "Name and size of the file appear here after a run.",
};
const OUTPUT = "text"; // in the node's ui output
const HEIGHT = { LoRA2Dataset: 140, LoRA2Evaluate: 44, LoRA2Layers: 170, LoRA2Info: 170, LoRA2Compress: 44, LoRA2Save: 44 };

app.registerExtension({
  name: "LoRA2.ReportView",
  nodeCreated(node) {
    if (!(node.comfyClass in EMPTY)) return;
    const root = addView(node, "report", HEIGHT[node.comfyClass]);
    const text = html("div", { class: "text" });
    let told = null;
    const show = () => {
      const lines = told?.split("\n").map((line) => say(line)); // notes on files are translated
      text.textContent = lines?.join("\n") ?? say(missing(node) ?? EMPTY[node.comfyClass]);
    };
    if (node.comfyClass === "LoRA2Dataset") root.append(uploadBar(node, root));
    root.append(text);
    atLeast(node, 340, 0);
    onChange(node, show);
    onOutput(node, (output) => {
      told = output[OUTPUT]?.[0] ?? told; // with names of files: never as HTML
      show();
    });
  },
});
