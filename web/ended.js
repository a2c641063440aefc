/**
 * Runs that ended before their last step, for the page as it is loaded again: the server's list of
 * jobs has only what nodes returned, and these returned nothing. The browser remembers them.
 */

const KEY = "lora2.ended";
const MOST = 16; // runs

const keyOf = ({ workflow, node }) => JSON.stringify([workflow, node]);

/** [[key, event]], the newest last. */
function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return []; // not ours, or storage is switched off
  }
}

/** Takes a run's first event, which puts away how the one before ended, or that of its early end. */
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

/** The last events of a workflow's nodes whose last run ended early. */
export function endedRuns(workflow) {
  return stored().map(([, event]) => event).filter((event) => event?.workflow === workflow);
}
