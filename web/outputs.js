/**
 * Nodes show the results of their last run, also on a page that was loaded after it: the front end
 * forgets them, the server's list of jobs does not.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { allNodes, nodeOf, rootGraph } from "./places.js";

const JOBS = 8; // of this workflow, the newest first: a job holds only what it ran
const shows = new WeakMap(); // node -> how it shows an output
const fresh = new WeakSet(); // nodes that have shown one

/** Calls show(output) with the node's ui output after each run, and once with that of an old one. */
export function onOutput(node, show) {
  const once = (output) => {
    if (!output) return;
    fresh.add(node);
    show(output);
  };
  shows.set(node, once);
  const executed = node.onExecuted;
  node.onExecuted = function (output, ...rest) {
    executed?.call(this, output, ...rest);
    once(output);
  };
}

/** The node shows something newer than any finished run: old results stay away from it. */
export function isLive(node) {
  fresh.add(node);
}

async function ask(path) {
  const answer = await api.fetchApi(path);
  return answer.ok ? answer.json() : null;
}

/** Shows what nodes have not shown yet; with `all`, replaces what they show. */
async function restore(all = false) {
  const wanted = (node) => shows.has(node) && (all || !fresh.has(node));
  const waiting = new Set(allNodes().filter(wanted));
  const workflow = rootGraph()?.id;
  if (!waiting.size || !workflow) return;
  const query = new URLSearchParams({ workflow_id: workflow, status: "completed", limit: JOBS });
  for (const { id } of (await ask(`/jobs?${query}`))?.jobs ?? []) {
    const job = await ask(`/jobs/${encodeURIComponent(id)}`);
    for (const [key, output] of Object.entries(job?.outputs ?? {})) {
      const node = nodeOf(key);
      if (waiting.delete(node) && wanted(node)) shows.get(node)(output);
    }
    if (!waiting.size) return;
  }
}

app.registerExtension({
  name: "LoRA2.Outputs",
  setup() {
    api.addEventListener("reconnected", async () => {
      const queue = await ask("/queue");
      if (queue && !queue.queue_running.length) restore(true); // else its events go on
    });
  },
  afterConfigureGraph: () => restore(),
});
