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
    picture.title = `${place.subfolder}/${place.filename}`;
    picture.addEventListener("load", () => {
      picture.classList.toggle("pixels", picture.naturalWidth <= SMALL);
      this.element.scrollLeft = this.element.scrollWidth; // the newest
    });
    return html("figure", {}, picture, html("figcaption", {}, said));
  }
}
