/** The state of a run, from the events that lora2_core/host/training/live.py sends. */

const FIELDS = ["step", "loss", "smooth", "mean_rank", "mb"];

export class TrainState {
  last = null; // the newest event
  map = null; // where the layers stand, as drawing/strips.js takes it
  points = [];
  notes = []; // sentences of advice, or lists of one and its values
  previews = []; // [{step, filename, subfolder, type}]
  validation = []; // [{step, validation}]: the held-out loss
  best = null; // the step where it is best

  /**
   * Takes an event; returns false for one that it can not use: it is older than the last one, or of
   * a run whose beginning was missed, until the next event that holds the full run.
   */
  add(event) {
    if (event.run === this.last?.run && event.step < this.last.step) return false;
    if (event.points) {
      this.points = event.points.map(pointOf);
      this.map = event.map;
      this.notes = event.notes;
      this.previews = event.previews;
      this.validation = (event.validation ?? []).map(([step, validation]) => ({ step, validation }));
      this.best = event.best ?? null;
    } else if (event.run !== this.last?.run) {
      return false;
    } else {
      const point = pointOf(FIELDS.map((name) => event[name]));
      if (this.points.at(-1)?.step >= point.step) this.points.pop();
      this.points.push(point);
    }
    this.last = event;
    return true;
  }

  get finished() {
    return this.last !== null && !this.last.ended && this.last.step >= this.last.steps;
  }

  get point() {
    return this.points.at(-1);
  }

  /** Returns {layer name: rank}. */
  get ranks() {
    return Object.fromEntries(this.map.cells.map((c, i) => [c.name, this.last.ranks[i]]));
  }
}

const MOST = 16; // runs that are kept, the oldest goes first
const runs = new Map(); // workflow and node -> TrainState; also of workflows in other tabs
const keyOf = (workflow, node) => JSON.stringify([workflow, String(node)]);

/** Returns the state of an event's run, a new one for a run that belongs to no workflow. */
export function stateOf({ workflow, node }) {
  if (!workflow) return new TrainState();
  const key = keyOf(workflow, node);
  const state = runs.get(key) ?? new TrainState();
  runs.delete(key);
  runs.set(key, state); // as the newest
  if (runs.size > MOST) runs.delete(runs.keys().next().value);
  return state;
}

/** Returns [[node, state]] of a workflow's runs that this page has had events of. */
export function runsOf(workflow) {
  return [...runs]
    .map(([key, state]) => [...JSON.parse(key), state])
    .filter(([owner, , state]) => owner === workflow && state.last)
    .map(([, node, state]) => [node, state]);
}

function pointOf(values) {
  return Object.fromEntries(FIELDS.map((name, i) => [name, values[i]]));
}
