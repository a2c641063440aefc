/** What a training has reported so far, thinned out so that a long run stays quick to draw. */

const MOST = 600; // points kept
const SMOOTHING = 0.12; // weight of a new loss in the running mean

export class TrainHistory {
  points = []; // {step, loss, smooth, rank}
  last = null; // the newest event
  note = ""; // why it ended early

  /**
   * Adds an event of the server; an earlier step starts a new run. The last step comes twice, the
   * second time with the finished adapter's ranks and size.
   */
  add(event) {
    if (!this.last || event.step < this.last.step || event.steps !== this.last.steps) {
      this.points = [];
    } else if (event.step === this.last.step) {
      this.points.pop();
    }
    this.last = event;
    this.note = "";
    const before = this.points.at(-1)?.smooth ?? event.loss;
    const smooth = event.loss === null ? before : before + SMOOTHING * (event.loss - before);
    this.points.push({ step: event.step, loss: event.loss, smooth, rank: event.mean_rank });
    if (this.points.length > MOST) {
      this.points = this.points.filter((_, i) => i % 2 || i === this.points.length - 1);
    }
  }
}
