/**
 * LoRA² Target Options shows its menu before the regular expression, which only one of the menu's
 * choices needs. Saved workflows list values without names, so they keep the order of the inputs.
 */

import { app } from "../../../scripts/app.js";

const EXPRESSION = "targets", MENU = "layers"; // inputs
const BEFORE = { [MENU]: "regex" }; // what a workflow means that was saved before the menu was there

/** Calls `then` after a method of the node. */
function chain(node, name, then) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    then(...args);
    return result;
  };
}

app.registerExtension({
  name: "LoRA2.TargetOptions",
  nodeCreated(node) {
    if (node.comfyClass !== "LoRA2TargetOptions" || !node.widgets) return;
    const saved = node.widgets.filter((w) => w.serialize !== false);
    const missing = saved.map((w) => BEFORE[w.name] ?? w.value); // older workflows hold fewer values
    const from = node.widgets.findIndex((w) => w.name === MENU);
    const to = node.widgets.findIndex((w) => w.name === EXPRESSION);
    if (to < 0 || from < to) return;
    node.widgets.splice(to, 0, ...node.widgets.splice(from, 1));
    chain(node, "onSerialize", (stored) => {
      if (Array.isArray(stored.widgets_values)) stored.widgets_values = saved.map((w) => w.value);
    });
    chain(node, "onConfigure", (stored) => {
      if (!Array.isArray(stored.widgets_values)) return;
      saved.forEach((widget, i) => { widget.value = stored.widgets_values[i] ?? missing[i]; });
    });
  },
});
