/** What a training has reported so far; lora2_core/host/live.py sends it. */

const FIELDS = ["step", "loss", "smooth", "mean_rank", "mb"];

export class TrainState {
  last = null; // the newest event
  map = null; // {rows, columns, cells: [{name, row, column, rank}]}
  points = [];
  notes = []; // sentences of advice
  previews = []; // [{step, filename, subfolder, type}]

  /** Takes an event; false for one of a run whose beginning was missed: a whole one comes soon. */
  add(event) {
    if (event.points) {
      this.points = event.points.map(pointOf);
      this.map = event.map;
      this.notes = event.notes;
      this.previews = event.previews;
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

  /** {layer name: rank} */
  get ranks() {
    return Object.fromEntries(this.map.cells.map((c, i) => [c.name, this.last.ranks[i]]));
  }
}

function pointOf(values) {
  return Object.fromEntries(FIELDS.map((name, i) => [name, values[i]]));
}
