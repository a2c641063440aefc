/**
 * The pack's templates in an order that helps: the one to begin with is first, the rest follow by
 * name. ComfyUI lists them as the disk does, which on many systems is any order.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const FIRST = "LoRA2 playground quick start";

function ordered(names) {
  return [...names].sort((a, b) => (b === FIRST) - (a === FIRST) || a.localeCompare(b));
}

app.registerExtension({
  name: "LoRA2.Templates",
  init() {
    const list = api.getWorkflowTemplates;
    if (typeof list !== "function") return;
    api.getWorkflowTemplates = async function (...args) {
      const packs = await list.apply(this, args);
      const ours = ([, names]) => Array.isArray(names) && names.includes(FIRST);
      const sorted = Object.entries(packs ?? {})
        .filter(ours)
        .map(([pack, names]) => [pack, ordered(names)]);
      return { ...packs, ...Object.fromEntries(sorted) };
    };
  },
});
