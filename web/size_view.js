/** LoRA² Load and LoRA² Apply show what `keep` leaves, and what every other size would. */

import { app } from "../../scripts/app.js";
import { Curve } from "./curve.js";
import { html } from "./dom.js";
import { missing, onChange } from "./guide.js";
import { megabytes } from "./numbers.js";
import { onOutput } from "./outputs.js";
import { addView, atLeast, makeRoom } from "./view.js";
import { say } from "./words.js";

const NODES = ["LoRA2Load", "LoRA2Apply"];
const OUTPUT = "lora2_size_curve";
const NOTE = "lora2_note";
const FILE = "lora2_file"; // whose curve it is
const HEIGHT = 148;
const CURVE = 80; // pixels of it, at least
const ENERGY = [{ key: "energy", colour: "var(--lora2-rank)" }];

class SizeView {
  curve = new Curve((keep) => this.choose(keep));
  points = null; // [{keep, mb, rank, energy}]
  file = null;
  place = html("div", { class: "fill" }, this.curve.element);

  constructor(node) {
    this.node = node;
    this.keep = node.widgets.find((w) => w.name === "keep");
    this.name = node.widgets.find((w) => w.name === "lora_name");
    this.root = addView(node, "size", HEIGHT, () => this.draw(), this.place);
    this.now = html("div", { class: "line" });
    this.empty = html("div", { class: "empty" });
    this.root.append(this.now, this.place, this.empty);
    this.note = html("div", { class: "note", hidden: "" });
    this.root.append(this.note);
    onChange(node, () => this.draw());
  }

  show(output) {
    const curve = output[OUTPUT]?.[0];
    if (!curve) return;
    const every = curve.mb.length;
    this.points = curve.mb.map((mb, i) => ({
      keep: (i + 1) / every, mb, rank: curve.mean_rank[i], energy: 100 * curve.energy[i],
    }));
    this.file = output[FILE]?.[0] ?? null;
    this.told = (output[NOTE] ?? []).map((note) => say(...[note].flat())).join(" ");
    this.note.textContent = this.told;
    this.draw();
  }

  /** Sets the slider to where the curve is pressed. */
  choose(keep) {
    if (!this.known || keep === null) return;
    const value = Math.min(1, Math.max(0.01, Math.round(100 * keep) / 100));
    if (value === this.keep.value) return;
    this.keep.value = value;
    this.keep.callback?.(value);
    app.canvas?.setDirty(true, true);
  }

  get known() {
    return this.points !== null && (this.file === null || this.file === this.name?.value);
  }

  /** What the slider's value leaves. */
  get chosen() {
    const at = Math.round(this.keep.value * this.points.length) - 1;
    return this.points[Math.min(this.points.length - 1, Math.max(0, at))];
  }

  draw() {
    const { known } = this;
    this.now.hidden = this.place.hidden = !known;
    this.note.hidden = !known || !this.told;
    this.empty.hidden = known;
    if (!known) {
      this.root.dataset.keep = "";
      this.empty.textContent = say(missing(this.node) ?? "Run once to see what every size keeps.");
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
    makeRoom(this.node, this.root, this.place, CURVE);
    const width = this.root.clientWidth - 20, height = this.place.clientHeight;
    if (width < 60 || height < 40) return;
    const span = [0, 1];
    this.curve.draw(width, height, this.points, "keep", span, ENERGY, {
      here: keep,
      range: [0, 100],
      ends: ["0 MB", megabytes(this.points.at(-1).mb)],
      title: (p, at) =>
        at ? `${say("keep")} ${p.keep.toFixed(2)}: ${megabytes(p.mb)}, ${p.energy.toFixed(1)} %`
          : say("energy that stays, %, by size; drag to choose"),
    });
  }

}

app.registerExtension({
  name: "LoRA2.SizeView",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const view = new SizeView(node);
    atLeast(node, 380, 0);
    onOutput(node, (output) => view.show(output));
  },
});
