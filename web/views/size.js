/** LoRA² Load and LoRA² Apply show what their `keep` leaves, and what every other size would. */

import { app } from "../../../scripts/app.js";
import { Curve } from "../drawing/curve.js";
import { html } from "../drawing/dom.js";
import { megabytes } from "../drawing/numbers.js";
import { missing, onChange } from "../graph/advice.js";
import { addView, growToSize, hasView, makeRoom } from "../graph/view.js";
import { entryOf } from "../nodes.js";
import { onOutput } from "../server/outputs.js";
import { say } from "../server/words.js";

// keys of the node's ui output
const OUTPUT = "lora2_size_curve";
const NOTE = "lora2_note";
const FILE = "lora2_file"; // the file that the curve is of

const CURVE = 80; // pixels, least height of the curve that makeRoom keeps
const LEAST_WIDTH = 60, LEAST_HEIGHT = 40; // pixels: a smaller curve is not drawn
const ENERGY = [{ key: "energy", colour: "var(--lora2-rank)" }];

class SizeView {
  curve = new Curve((keep) => this.choose(keep));
  points = null; // [{keep, mb, rank, energy}]
  file = null;
  area = html("div", { class: "fill" }, this.curve.element);

  constructor(node) {
    this.node = node;
    this.keep = node.widgets.find((w) => w.name === "keep");
    this.name = node.widgets.find((w) => w.name === "lora_name");
    this.root = addView(node, () => this.draw(), this.area);
    this.now = html("div", { class: "line" });
    this.empty = html("div", { class: "empty" });
    this.root.append(this.now, this.area, this.empty);
    this.note = html("div", { class: "note", hidden: "" });
    this.root.append(this.note);
    onChange(node, () => this.draw());
  }

  show(output) {
    const curve = output[OUTPUT]?.[0];
    if (!curve) return;
    const sizes = curve.mb.length;
    this.points = curve.mb.map((mb, i) => ({
      keep: (i + 1) / sizes, mb, rank: curve.mean_rank[i], energy: 100 * curve.energy[i],
    }));
    this.file = output[FILE]?.[0] ?? null;
    const notes = (output[NOTE] ?? []).map((note) => say(...[note].flat()));
    this.note.textContent = notes.join(" ");
    this.draw();
  }

  /** Sets the slider to the point where the curve is pressed. */
  choose(keep) {
    if (!this.known || keep === null) return;
    const value = Math.min(1, Math.max(0.01, Math.round(100 * keep) / 100));
    if (value === this.keep.value) return;
    this.keep.value = value;
    this.keep.callback?.(value);
    app.canvas?.setDirty(true, true);
  }

  /** Returns whether the curve is of the file that is chosen now. */
  get known() {
    return this.points !== null && (this.file === null || this.file === this.name?.value);
  }

  /** Returns the point of the curve that the slider is at. */
  get chosen() {
    const at = Math.round(this.keep.value * this.points.length) - 1;
    return this.points[Math.min(this.points.length - 1, Math.max(0, at))];
  }

  draw() {
    const { known } = this;
    this.now.hidden = this.area.hidden = !known;
    this.note.hidden = !known || !this.note.textContent;
    this.empty.hidden = known;
    if (!known) {
      this.root.dataset.keep = "";
      this.empty.textContent = say(missing(this.node) ?? entryOf(this.node).view.empty);
      return;
    }
    const { keep, mb, rank, energy } = this.chosen;
    Object.assign(this.root.dataset, { keep, mb, rank, energy: energy.toFixed(2) });
    this.now.replaceChildren(
      html("b", {}, megabytes(mb)),
      ` ${say("of {0}", megabytes(this.points.at(-1).mb))} · ${say("mean rank")} `,
      html("b", {}, rank.toFixed(1)),
      ` · ${say("energy")} `, html("b", {}, `${energy.toFixed(1)} %`),
    );
    makeRoom(this.node, this.root, this.area, CURVE);
    const width = this.root.clientWidth - 20, height = this.area.clientHeight;
    if (width < LEAST_WIDTH || height < LEAST_HEIGHT) return;
    const span = [0, 1];
    this.curve.draw(width, height, this.points, "keep", span, ENERGY, {
      here: keep,
      range: [0, 100],
      ends: ["0 MB", megabytes(this.points.at(-1).mb)],
      title: (p, pointed) =>
        pointed
          ? `${say("keep")} ${p.keep.toFixed(2)}: ${megabytes(p.mb)}, ${p.energy.toFixed(1)} %`
          : say("energy that stays, %, by size; drag to choose"),
    });
  }
}

app.registerExtension({
  name: "LoRA2.SizeView",
  nodeCreated(node) {
    if (!hasView(node, "size")) return;
    const view = new SizeView(node);
    growToSize(node);
    onOutput(node, (output) => view.show(output));
  },
});
