/**
 * The browser remembers runs that ended before their last step, for a page that is loaded again: the
 * server's list of jobs has only what nodes returned, and after such a run a node returned nothing.
 */

const KEY = "lora2.ended";
const MOST = 16; // runs that are kept

const keyOf = ({ workflow, node }) => JSON.stringify([workflow, node]);

/** Returns [[key, event]], the newest last, without events whose map an older version drew. */
function stored() {
  try {
    const entries = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return entries.filter(([, event]) => event?.map?.blocks);
  } catch {
    return []; // it is something else, or storage is switched off
  }
}

/** Stores the event of a run's early end; the first event of a run removes the one before it. */
export function remember(event) {
  const key = keyOf(event);
  const before = stored();
  const others = before.filter(([k]) => k !== key);
  if (!event.ended && others.length === before.length) return;
  if (event.ended) others.push([key, event]);
  try {
    localStorage.setItem(KEY, JSON.stringify(others.slice(-MOST)));
  } catch {
    // storage is full or switched off: the run is not shown after a reload
  }
}

/** Returns the last event of every node of a workflow whose last run ended early. */
export function endedRuns(workflow) {
  return stored().map(([, event]) => event).filter((event) => event.workflow === workflow);
}
