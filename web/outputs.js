/**
 * Nodes show the results of their last run, also on a page that was loaded after it: the front end
 * forgets them, the server's list of jobs does not.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { allNodes, nodeOf, rootGraph } from "./places.js";

const WAIT = 2500; // milliseconds; the server tells of a run at least every two seconds
const JOBS = 8; // of this workflow, the newest first: a job holds only what it ran
const shows = new WeakMap(); // node -> how it shows an output
const fresh = new WeakSet(); // nodes that have shown one
const live = new WeakSet(); // nodes that show a run while it goes
let owner = null; // the workflow of what runs: the front end takes any open node of the same id
const own = new Set(); // prompts that this page has queued
const seen = new Map(); // workflow -> its newest prompt whose outputs are shown

/**
 * Calls show(output) with the node's ui output after each run, and once with that of an old one.
 *
 * @param goesOn whether events tell of a run before its output does
 */
export function onOutput(node, show, goesOn = false) {
  if (goesOn) live.add(node);
  const once = (output) => {
    if (!output) return;
    fresh.add(node);
    show(output);
  };
  shows.set(node, once);
  const executed = node.onExecuted;
  node.onExecuted = function (output, ...rest) {
    executed?.call(this, output, ...rest);
    const open = rootGraph()?.id;
    if (!owner) return once(output);
    owner.then((workflow) => (!workflow || workflow === open) && once(output));
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

const jobsOf = async (workflow, status, limit) =>
  (await ask(`/jobs?${new URLSearchParams({ workflow_id: workflow, status, limit })}`))?.jobs ?? [];

/** Shows what nodes have not shown yet; with `all`, replaces what they show. */
async function restore(all = false) {
  const workflow = rootGraph()?.id;
  const wanted = (node) => shows.has(node) && (all || !fresh.has(node));
  if (!workflow || !allNodes().some((node) => shows.has(node))) return;
  if ((await jobsOf(workflow, "in_progress", 1)).length) {
    await fetchOutputs(workflow, (node) => wanted(node) && !live.has(node));
    await new Promise((passed) => setTimeout(passed, WAIT)); // what goes on tells of itself
    all = false;
  }
  await fetchOutputs(workflow, wanted);
}

/** Shows the newest output of every wanted node, from the list of jobs. */
async function fetchOutputs(workflow, wanted) {
  const jobs = await jobsOf(workflow, "completed", JOBS);
  seen.set(workflow, jobs[0]?.id);
  const waiting = new Set(allNodes().filter(wanted));
  if (!waiting.size) return;
  for (const { id } of jobs) {
    const job = await ask(`/jobs/${encodeURIComponent(id)}`);
    if (rootGraph()?.id !== workflow) return;
    for (const [key, output] of Object.entries(job?.outputs ?? {})) {
      const node = nodeOf(key);
      if (waiting.delete(node) && wanted(node)) shows.get(node)(output);
    }
    if (!waiting.size) return;
  }
}

/** Shows what another page has run: the server sends its outputs to that page alone. */
async function restoreOthers() {
  const workflow = rootGraph()?.id;
  if (!seen.has(workflow)) return; // nothing to show, or it is about to be
  const [job] = await jobsOf(workflow, "completed", 1);
  if (job && !own.has(job.id) && job.id !== seen.get(workflow)) restore(true);
}

app.registerExtension({
  name: "LoRA2.Outputs",
  setup() {
    api.addEventListener("reconnected", async () => {
      const queue = await ask("/queue");
      if (queue && !queue.queue_running.length) restore(true); // else its events go on
    });
    api.addEventListener("execution_start", ({ detail }) => {
      own.add(detail.prompt_id);
      const job = ask(`/jobs/${encodeURIComponent(detail.prompt_id)}`);
      owner = job.then((found) => found?.workflow_id, () => null);
    });
    let waiting = Infinity; // not known: the first status may have come before
    api.addEventListener("status", ({ detail }) => {
      const now = detail?.exec_info?.queue_remaining ?? 0;
      if (now < waiting) setTimeout(restoreOthers, 500); // once it is in the list of jobs
      waiting = now;
    });
  },
  afterConfigureGraph: () => restore(),
});
