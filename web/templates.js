/** The order of the pack's templates: the host lists them as the disk does, which on many systems
 *  is any order; here the one to begin with comes first.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

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
      const found = Object.entries(packs ?? {}).filter(ours);
      return { ...packs, ...Object.fromEntries(found.map(([pack, names]) => [pack, ordered(names)])) };
    };
  },
});
