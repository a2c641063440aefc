/** Nodes whose result is a few lines of text show it inside. */

import { app } from "../../../scripts/app.js";
import { html } from "../drawing/dom.js";
import { missing, onChange } from "../graph/advice.js";
import { addView, growToSize, hasView } from "../graph/view.js";
import { entryOf } from "../nodes.js";
import { onOutput } from "../server/outputs.js";
import { say } from "../server/words.js";
import { uploadBar } from "./upload.js";

const OUTPUT = "text"; // in the node's ui output

app.registerExtension({
  name: "LoRA2.ReportView",
  nodeCreated(node) {
    if (!hasView(node, "report")) return;
    const root = addView(node);
    const text = html("div", { class: "text" });
    let report = null; // of the last run
    const show = () => {
      const lines = report?.split("\n").map((line) => say(line)); // notes on files are translated
      text.textContent = lines?.join("\n") ?? say(missing(node) ?? entryOf(node).view.empty);
    };
    if (node.comfyClass === "LoRA2Dataset") root.append(uploadBar(node, root));
    root.append(text);
    growToSize(node);
    onChange(node, show);
    onOutput(node, (output) => {
      report = output[OUTPUT]?.[0] ?? report; // names of files are in it: it never becomes HTML
      show();
    });
  },
});
