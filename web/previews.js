/** The pictures of LoRA² Preview Options, one for each step: a strip, hidden until there are some. */

import { api } from "../../scripts/api.js";
import { html } from "./dom.js";
import { say } from "./words.js";

const SMALL = 128; // pixels: smaller ones are shown with sharp edges

export class Previews {
  element = html("div", { class: "pictures", hidden: "" });
  shown = "";

  /** Shows what an event names: [{step, filename, subfolder, type}]. */
  show(previews) {
    const key = JSON.stringify(previews);
    if (key === this.shown) return;
    this.shown = key;
    this.element.replaceChildren(...previews.map((preview) => this.figure(preview)));
    this.element.hidden = !previews.length;
  }

  figure({ step, ...place }) {
    const said = step ? `${say("step")} ${step}` : say("before");
    const picture = html("img", { src: api.apiURL(`/view?${new URLSearchParams(place)}`), alt: said });
    picture.addEventListener("load", () => {
      picture.classList.toggle("pixels", picture.naturalWidth <= SMALL);
      this.element.scrollLeft = this.element.scrollWidth; // the newest
    });
    const enlarge = () => enlarged(picture.src, said, picture.classList.contains("pixels"));
    const button = html("button", { type: "button", title: `${say("Enlarge")} ${place.subfolder}/${place.filename}`, click: enlarge }, picture);
    return html("figure", {}, button, html("figcaption", {}, said));
  }
}

/** The picture over the whole page, until a click or Escape. */
function enlarged(src, said, pixels) {
  const picture = html("img", { src, alt: said, class: pixels ? "pixels" : "" });
  const shown = html("dialog", { class: "lora2-enlarged", "aria-label": said }, picture, html("p", {}, said));
  shown.addEventListener("click", () => shown.close());
  shown.addEventListener("close", () => shown.remove());
  shown.addEventListener("keydown", (event) => event.stopPropagation()); // Escape is not the graph's
  document.body.append(shown);
  shown.showModal();
}
