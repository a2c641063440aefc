/**
 * Nodes show the results of their last run, also on a page that was loaded after it: the front end
 * forgets these, the server's list of jobs keeps them.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { allNodes, nodeOf, rootGraph } from "../graph/find.js";

const WAIT = 2500; // milliseconds; a run that goes on sends an event at least every 2000
const LISTED = 500; // milliseconds until a finished job is in the server's list
const JOBS = 8; // newest jobs of a workflow that are asked: a job holds only the nodes that it ran
const shows = new WeakMap(); // node -> function that shows an output in it
const fresh = new WeakSet(); // nodes that have shown an output
const live = new WeakSet(); // nodes that show a run while it goes on
let owner = null; // promise of the workflow that runs: the front end takes any open node of the same id
const own = new Set(); // prompts that this page has queued
const seen = new Map(); // workflow -> its newest prompt whose outputs are shown

/**
 * Calls show(output) with the node's ui output after each run, and once with that of an old run.
 *
 * @param hasEvents whether events show a run before its output comes
 */
export function onOutput(node, show, hasEvents = false) {
  if (hasEvents) live.add(node);
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

/** Marks a node that shows something newer than any finished run: old results stay away from it. */
export function markLive(node) {
  fresh.add(node);
}

/** Returns the server's answer to a path, null where it refuses. */
async function ask(path) {
  const answer = await api.fetchApi(path);
  return answer.ok ? answer.json() : null;
}

const jobsOf = async (workflow, status, limit) =>
  (await ask(`/jobs?${new URLSearchParams({ workflow_id: workflow, status, limit })}`))?.jobs ?? [];

/** Shows old results in the nodes that show none yet; with `all`, in every node. */
async function restore(all = false) {
  const workflow = rootGraph()?.id;
  const wanted = (node) => shows.has(node) && (all || !fresh.has(node));
  if (!workflow || !allNodes().some((node) => shows.has(node))) return;
  if ((await jobsOf(workflow, "in_progress", 1)).length) {
    await fetchOutputs(workflow, (node) => wanted(node) && !live.has(node));
    await new Promise((passed) => setTimeout(passed, WAIT)); // a run that goes on sends an event by then
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

/** Shows what another page has run: the server sends the outputs to that page alone. */
async function restoreOthers() {
  const workflow = rootGraph()?.id;
  if (!seen.has(workflow)) return; // there is nothing to show, or it is being fetched
  const [job] = await jobsOf(workflow, "completed", 1);
  if (job && !own.has(job.id) && job.id !== seen.get(workflow)) restore(true);
}

app.registerExtension({
  name: "LoRA2.Outputs",
  setup() {
    api.addEventListener("reconnected", async () => {
      const queue = await ask("/queue");
      if (queue && !queue.queue_running.length) restore(true); // a run that goes on sends events
    });
    api.addEventListener("execution_start", ({ detail }) => {
      own.add(detail.prompt_id);
      const job = ask(`/jobs/${encodeURIComponent(detail.prompt_id)}`);
      owner = job.then((answer) => answer?.workflow_id, () => null);
    });
    let queued = Infinity; // not known: the first status may have come before this listener
    api.addEventListener("status", ({ detail }) => {
      const now = detail?.exec_info?.queue_remaining ?? 0;
      if (now < queued) setTimeout(restoreOthers, LISTED);
      queued = now;
    });
  },
  afterConfigureGraph: () => restore(),
});
