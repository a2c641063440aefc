/** A saved LoRA appears in every list of LoRAs at once, without a press of R. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { allNodes, nodeOf } from "../graph/find.js";
import { entryOf } from "../nodes.js";

const EVENT = "lora2.train";
const DELAY = 300; // milliseconds: several nodes may save in one run
let timer = null;
let ended = null; // the last run that kept a file though it ended early

/** Returns whether an input may be a list of LoRAs, or of runs to go on with. */
const lists = (name) => /lora/i.test(name) || name === "resume";

const inputsOf = (definition) => ({ ...definition?.input?.required, ...definition?.input?.optional });

/** Returns the values of an input [[value]] or ["COMBO", {options: [value]}], null for others. */
function optionsOf([kind, more] = []) {
  const options = Array.isArray(kind) ? kind : kind === "COMBO" ? more?.options : null;
  return Array.isArray(options) ? options : null;
}

/** Returns the types of nodes with such a list, also of types that no graph holds yet. */
function kinds() {
  return Object.entries(window.LiteGraph.registered_node_types)
    .filter(([, { nodeData }]) =>
      Object.entries(inputsOf(nodeData)).some(
        ([name, input]) => Array.isArray(input) && lists(name) && optionsOf(input),
      ),
    )
    .map(([kind]) => kind);
}

/** Gives every list its values as they are now. */
async function renew() {
  timer = null;
  const changed = new Map(); // name and old values of a list, as text -> new values
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
    // a list of an inner node that the subgraph's own node shows
    const options = changed.get(JSON.stringify([widget.name, widget.options?.values]));
    if (options) widget.options.values = options;
  }
  app.canvas?.setDirty(true, true);
}

function renewSoon() {
  timer ??= setTimeout(renew, DELAY);
}

app.registerExtension({
  name: "LoRA2.LoraLists",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeOf(detail.display_node ?? detail.node);
      if (entryOf(node).saves || detail.output?.[EVENT]) renewSoon();
    });
    api.addEventListener(EVENT, ({ detail }) => {
      if (!detail.ended?.kept || detail.run === ended) return;
      ended = detail.run;
      renewSoon();
    });
  },
});
