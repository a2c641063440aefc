/** One picture of a data set with its caption, which can be edited. */

import { html } from "../drawing/dom.js";
import { draftOf, edit, revert, save } from "../server/captions.js";
import { pictureUrl } from "../server/files.js";
import { say } from "../server/words.js";
import { enlarge } from "./previews.js";

const MOST_NAMED = 3; // other pictures that a text names

/** Returns the caption that training uses; `common` is the node's own, null where it isn't known. */
export function captionOf(row, common) {
  return row.caption ?? (common?.trim() || row.folder_caption);
}

/** Says where the caption of a row comes from. */
function originOf(row, common) {
  if (row.caption === "") return say("{0} is empty: no words", row.caption_file);
  if (row.caption !== null) return row.caption_file;
  if (common === null) return say("no file: from the link to this node's caption");
  if (common.trim()) return say("no file: this node's caption");
  return row.folder_caption ? say("no file: the folder's name") : say("no caption yet");
}

export class CaptionRow {
  text = html("textarea", {
    rows: 3,
    input: () => this.typed(),
    change: () => this.finish(),
    keydown: (event) => this.pressed(event),
  });
  origin = html("span", { class: "faint" });
  fault = html("span", { class: "note", role: "status", hidden: "" });
  anyway = html("button", { type: "button", hidden: "", click: () => save(this.folder, this.row.name, true) });
  element = html("div", { class: "row", role: "listitem" });

  constructor(folder, index, row) {
    Object.assign(this, { folder, index, row });
    const words = html("div", { class: "words" }, html("div", { class: "about" }, html("b", {}, row.name), this.origin), this.text);
    words.append(html("div", { class: "bar" }, this.fault, this.anyway));
    this.element.append(this.picture(), words);
    this.text.setAttribute("aria-label", say("Caption of {0}", row.name));
    this.anyway.textContent = say("Save it anyway");
  }

  /** Returns a button with the picture; a format that browsers can't show is converted by the server. */
  picture() {
    const { file, folders, name } = this.row;
    const place = [this.folder, folders].filter(Boolean).join("/");
    const full = pictureUrl(place, file), small = html("img", { alt: "", loading: "lazy", decoding: "async" });
    small.addEventListener("error", () => {
      const converted = pictureUrl(place, file, { preview: "webp;80" });
      if (small.src !== new URL(converted, location.href).href) small.src = converted;
    });
    if (file) small.src = full;
    const click = () => enlarge(small.src, name, false);
    return html("button", { type: "button", class: "picture", title: `${say("Enlarge")} ${name}`, click }, small);
  }

  /** Shows a row as it is now; `common` is the node's own caption, null where it isn't known. */
  update(row, common, index = this.index) {
    Object.assign(this, { row, common, index });
    const draft = draftOf(this.folder, row.name), shown = draft?.text ?? captionOf(row, common);
    if (this.text.value !== shown) this.text.value = shown;
    this.text.readOnly = Boolean(row.locked);
    const also = row.shared.slice(0, MOST_NAMED).join(", ") + (row.shared.length > MOST_NAMED ? ", …" : "");
    const parts = [originOf(row, common), also && say("also of {0}", also)];
    this.origin.textContent = parts.filter(Boolean).join("; ");
    this.mark(draft);
  }

  /** Says that a text is not saved, and why; or why it can't be edited. */
  mark(draft) {
    const fault = draft ? draft.fault || say("Not saved yet.") : say(this.row.locked);
    if (this.fault.textContent !== fault) this.fault.textContent = fault;
    this.fault.hidden = !fault;
    this.anyway.hidden = !draft?.fault;
    this.element.classList.toggle("draft", Boolean(draft));
  }

  typed() {
    edit(this.folder, this.index, this.row, this.text.value);
    this.mark(draftOf(this.folder, this.row.name));
  }

  /** Saves what was typed, unless it is what was there before. */
  finish() {
    const { folder, row } = this;
    if (this.text.value === captionOf(row, this.common)) this.takeBack();
    else save(folder, row.name);
  }

  /** Escape takes back what was typed. */
  pressed(event) {
    if (event.key !== "Escape" || !draftOf(this.folder, this.row.name)) return;
    event.stopPropagation();
    this.takeBack();
  }

  takeBack() {
    this.text.value = captionOf(this.row, this.common);
    revert(this.folder, this.row.name);
    this.mark();
  }
}
