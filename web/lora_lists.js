/** A LoRA that was saved stands in every list of LoRAs at once, without a press of R. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { allNodes, nodeOf } from "./places.js";

const SAVES = ["LoRA2Save", "LoRA2Train"]; // what leaves a file behind
const EVENT = "lora2.train";
let waiting = null;
let ended = null; // the last run that kept a file though it ended early

/** Whether a list of the node may hold LoRAs, or runs to go on with. */
const lists = (node, widget) =>
  widget.type === "combo" && (/lora/i.test(widget.name) || /^LoRA2/.test(node.comfyClass ?? ""));

/** What a widget can be, of a node's definition: [[value]] or ["COMBO", {options: [value]}]. */
function optionsOf(definition, name) {
  const { required, optional } = definition?.input ?? {};
  const [kind, more] = required?.[name] ?? optional?.[name] ?? [];
  const options = Array.isArray(kind) ? kind : more?.options;
  return Array.isArray(options) ? options : null;
}

async function renew() {
  waiting = null;
  const nodes = allNodes().filter((n) => n.comfyClass && n.widgets?.some((w) => lists(n, w)));
  const changed = new Map(); // a list as it was, and its name -> as it is
  for (const kind of new Set(nodes.map((n) => n.comfyClass))) {
    const answer = await api.fetchApi(`/object_info/${encodeURIComponent(kind)}`);
    const definition = answer.ok ? (await answer.json())[kind] : null;
    if (!definition) continue;
    await app.registerNodeDef?.(kind, definition); // for nodes that are added later
    for (const node of nodes.filter((n) => n.comfyClass === kind)) {
      for (const widget of node.widgets.filter((w) => lists(node, w))) {
        const options = optionsOf(definition, widget.name);
        if (!options) continue;
        changed.set(JSON.stringify([widget.name, widget.options.values]), options);
        widget.options.values = options;
      }
    }
  }
  for (const widget of allNodes().filter((n) => n.subgraph).flatMap((n) => n.widgets ?? [])) {
    const options = changed.get(JSON.stringify([widget.name, widget.options?.values])); // shown outside
    if (options) widget.options.values = options;
  }
  app.canvas?.setDirty(true, true);
}

/** Soon: several nodes may save at once. */
function renewSoon() {
  waiting ??= setTimeout(renew, 300);
}

app.registerExtension({
  name: "LoRA2.LoraLists",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const kind = nodeOf(detail.display_node ?? detail.node)?.comfyClass;
      if (SAVES.includes(kind) || detail.output?.[EVENT]) renewSoon();
    });
    api.addEventListener(EVENT, ({ detail }) => {
      if (!detail.ended?.kept || detail.run === ended) return;
      ended = detail.run;
      renewSoon();
    });
  },
});
