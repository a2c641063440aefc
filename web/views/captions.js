/** The table of a data set's pictures and captions inside LoRA² Dataset, a page at a time. */

import { html } from "../drawing/dom.js";
import { captions, listCaptions, saveAll } from "../server/captions.js";
import { say } from "../server/words.js";
import { CaptionRow } from "./caption_row.js";

const PAGE = 25; // pictures
const WAIT = 200; // milliseconds after the last change until the list is asked for again

export class CaptionTable {
  first = 0; // number of the first picture that is shown
  total = 0;
  folder = null; // the one that is shown
  asked = 0; // requests so far: an answer that comes late is not shown
  rows = new Map(); // name of a picture -> its row
  list = html("div", { class: "rows", role: "list", tabindex: "-1", "data-capture-wheel": "true" });
  told = html("span", { class: "line", role: "status" });
  notes = html("div", { class: "notes faint", hidden: "" });
  back = html("button", { type: "button", click: () => this.turn(-PAGE) });
  on = html("button", { type: "button", click: () => this.turn(PAGE) });
  element = html("div", { class: "captions", hidden: "" });

  constructor(node) {
    this.node = node;
    this.element.append(this.list, this.notes, html("div", { class: "bar" }, this.back, this.told, this.on));
    this.list.addEventListener("wheel", (event) => this.scroll(event));
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button === 0) event.stopPropagation(); // the Vue renderer would drag the node
    });
    const follow = ({ folder }) => folder === this.folder && this.refresh();
    captions.addEventListener("changed", follow);
    const removed = node.onRemoved;
    node.onRemoved = function (...args) {
      captions.removeEventListener("changed", follow);
      saveAll(); // a field that goes with its page does not tell that it lost the focus
      return removed?.apply(this, args);
    };
  }

  /** Keeps the wheel for the list where it can scroll; elsewhere it is the graph's. */
  scroll(event) {
    if (this.list.scrollHeight > this.list.clientHeight && !event.ctrlKey) event.stopPropagation();
  }

  /** Shows or hides the table. */
  open(shown) {
    this.element.hidden = !shown;
    if (shown) this.load();
    else saveAll();
  }

  /** Returns the node's own caption, null where a link gives it. */
  common() {
    if (this.node.inputs?.find((i) => i.name === "caption")?.link != null) return null;
    return String(this.node.widgets?.find((w) => w.name === "caption")?.value ?? "");
  }

  turn(by) {
    this.first = Math.max(0, this.first + by);
    this.list.scrollTop = 0;
    this.load();
  }

  /** Asks for the list again soon, once for many changes. */
  refresh() {
    if (this.element.hidden) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), WAIT);
  }

  async load() {
    const folder = String(this.node.widgets?.find((w) => w.name === "folder")?.value ?? "");
    if (folder !== this.folder) this.first = 0;
    this.folder = folder;
    const asked = ++this.asked;
    try {
      const found = await listCaptions(folder, this.first, PAGE);
      if (asked !== this.asked) return;
      if (this.first && !found.rows.length) return this.turn(-this.first); // pictures were removed
      this.show(found);
    } catch (error) {
      if (asked === this.asked) this.fail(String(error.message ?? error));
    }
  }

  fail(text) {
    this.rows.clear();
    this.list.replaceChildren();
    this.total = 0;
    this.label(text);
  }

  show({ rows, pictures, skipped, more_skipped: more }) {
    this.total = pictures;
    const known = [...this.rows.values()];
    const same = known.length === rows.length && known.every((r, i) => r.row.name === rows[i].name && r.folder === this.folder);
    if (!same) {
      const made = rows.map((row, i) => [row.name, new CaptionRow(this.folder, this.first + i, row)]);
      this.rows = new Map(made);
      this.list.replaceChildren(...made.map(([, row]) => row.element));
    }
    const common = this.common();
    rows.forEach((row, i) => this.rows.get(row.name).update(row, common, this.first + i));
    const reasons = Object.entries(skipped).map(([name, reason]) => `${name}: ${reason}`);
    const count = reasons.length + more;
    if (more) reasons.push(say("and {0} more", more));
    this.notes.hidden = !count;
    this.notes.textContent = [say("skipped: {0}", count), ...reasons].join("\n");
    const last = this.first + rows.length;
    this.label(pictures ? say("{0} to {1} of {2}", this.first + 1, last, pictures) : say("no pictures"));
  }

  label(text) {
    this.back.textContent = say("Previous");
    this.on.textContent = say("Next");
    this.back.disabled = !this.first;
    this.on.disabled = this.first + PAGE >= this.total;
    this.back.hidden = this.on.hidden = this.total <= PAGE;
    this.told.textContent = this.told.title = text;
  }
}
