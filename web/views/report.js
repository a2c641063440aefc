/** Nodes whose result is a few lines of text show it inside; LoRA² Dataset shows its captions too. */

import { app } from "../../../scripts/app.js";
import { html } from "../drawing/dom.js";
import { missing, onChange } from "../graph/advice.js";
import { addView, choice, growToSize, hasView, makeRoom } from "../graph/view.js";
import { entryOf } from "../nodes.js";
import { onOutput } from "../server/outputs.js";
import { say } from "../server/words.js";
import { CaptionTable } from "./captions.js";
import { uploadBar } from "./upload.js";

const OUTPUT = "text"; // in the node's ui output
const TABLE = 300, TEXT = 80; // pixels, least heights of the captions and of the report

/** Adds an upload, and a table of captions in the report's place when it is chosen; returns the table. */
function addCaptions(node, root, text) {
  const table = new CaptionTable(node);
  const bar = uploadBar(node, root, () => table.refresh());
  const open = (what) => {
    const shown = what === "captions";
    text.hidden = shown;
    table.open(shown);
    makeRoom(node, root, shown ? table.element : text, shown ? TABLE : TEXT);
  };
  root.append(bar, table.element);
  onChange(node, () => table.refresh());
  const common = node.widgets.find((w) => w.name === "caption"), { callback } = common;
  common.callback = function (...args) { // a text field, which onChange leaves alone
    table.refresh();
    return callback?.apply(this, args);
  };
  requestAnimationFrame(() => {
    const options = { report: say("Report"), captions: say("Captions") }; // by then words are loaded
    bar.firstElementChild.after(choice(options, "report", open));
  });
  return table;
}

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
    const table = node.comfyClass === "LoRA2Dataset" ? addCaptions(node, root, text) : null;
    root.append(text);
    growToSize(node);
    onChange(node, show);
    onOutput(node, (output) => {
      report = output[OUTPUT]?.[0] ?? report; // names of files are in it: it never becomes HTML
      show();
      table?.refresh();
    });
  },
});
