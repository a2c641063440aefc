/** The pictures of LoRA² Preview Options in a row, one for each step; hidden until there is one. */

import { api } from "../../../scripts/api.js";
import { html } from "../drawing/dom.js";
import { say } from "../server/words.js";

const SMALL = 128; // pixels: narrower pictures, as of the playground, are shown with sharp edges

export class Previews {
  element = html("div", { class: "pictures", hidden: "" });
  shown = ""; // the previews that are shown, as text

  /** Shows the previews of an event: [{step, filename, subfolder, type}]. */
  show(previews) {
    const key = JSON.stringify(previews);
    if (key === this.shown) return;
    this.shown = key;
    this.element.replaceChildren(...previews.map((preview) => this.figure(preview)));
    this.element.hidden = !previews.length;
  }

  figure({ step, ...file }) {
    const caption = step ? `${say("step")} ${step}` : say("before");
    const picture = html("img", { src: api.apiURL(`/view?${new URLSearchParams(file)}`), alt: caption });
    picture.addEventListener("load", () => {
      picture.classList.toggle("pixels", picture.naturalWidth <= SMALL);
      this.element.scrollLeft = this.element.scrollWidth; // to the newest
    });
    const click = () => enlarge(picture.src, caption, picture.classList.contains("pixels"));
    const title = `${say("Enlarge")} ${file.subfolder}/${file.filename}`;
    const button = html("button", { type: "button", title, click }, picture);
    return html("figure", {}, button, html("figcaption", {}, caption));
  }
}

/** Shows a picture over the full page, until a click or Escape. */
export function enlarge(src, caption, pixels) {
  const picture = html("img", { src, alt: caption, class: pixels ? "pixels" : "" });
  const text = html("p", {}, caption);
  const dialog = html("dialog", { class: "lora2-enlarged", "aria-label": caption }, picture, text);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Escape is not for the graph
  document.body.append(dialog);
  dialog.showModal();
}
