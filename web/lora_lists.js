/** A LoRA that was saved stands in every list of LoRAs at once, without a press of R. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { allNodes, nodeOf } from "./places.js";

const SAVES = ["LoRA2Save", "LoRA2Train"]; // what leaves a file behind
const EVENT = "lora2.train";
let waiting = null;
let ended = null; // the last run that kept a file though it ended early

/** Whether an input may be a list of LoRAs, or of runs to go on with. */
const lists = (name) => /lora/i.test(name) || name === "resume";

const inputsOf = (definition) => ({ ...definition?.input?.required, ...definition?.input?.optional });

/** What an input can be: of [[value]] or ["COMBO", {options: [value]}]; null for other kinds. */
function optionsOf([kind, more] = []) {
  const options = Array.isArray(kind) ? kind : kind === "COMBO" ? more?.options : null;
  return Array.isArray(options) ? options : null;
}

/** Types of nodes with such a list, also of those that no graph holds yet. */
function kinds() {
  return Object.entries(window.LiteGraph.registered_node_types)
    .filter(([, { nodeData }]) =>
      Object.entries(inputsOf(nodeData)).some(
        ([name, input]) => Array.isArray(input) && lists(name) && optionsOf(input),
      ),
    )
    .map(([kind]) => kind);
}

async function renew() {
  waiting = null;
  const changed = new Map(); // name and values of a list, as text -> as they are now
  for (const kind of kinds()) {
    const answer = await api.fetchApi(`/object_info/${encodeURIComponent(kind)}`);
    const definition = answer.ok ? (await answer.json())[kind] : null;
    if (!definition) continue;
    await app.registerNodeDef?.(kind, definition); // for nodes that are added later
    const inputs = inputsOf(definition);
    for (const widget of allNodes().filter((n) => n.comfyClass === kind).flatMap((n) => n.widgets ?? [])) {
      const options = lists(widget.name) && widget.type === "combo" && optionsOf(inputs[widget.name]);
      if (!options) continue;
      changed.set(JSON.stringify([widget.name, widget.options.values]), options);
      widget.options.values = options;
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
