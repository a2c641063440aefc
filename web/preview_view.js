/** LoRA² Train shows the pictures of LoRA² Preview Options, one for each step, as they are drawn. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeOf } from "./execution_id.js";
import { passGestures } from "./graph_gestures.js";

const EVENT = "lora2.preview";
const HEIGHT = 150;
const MOST = 60; // pictures kept
const views = new WeakMap(); // node -> its view

class PreviewView {
  prompt = null;

  /** Nodes get their view with the first picture: most runs have none. */
  constructor(node) {
    this.root = document.createElement("div");
    Object.assign(this.root.style, {
      display: "flex", gap: "6px", width: "100%", height: "100%", minHeight: `${HEIGHT}px`,
      padding: "6px", overflowX: "auto", overflowY: "hidden", borderRadius: "6px",
      boxSizing: "border-box", font: "11px Inter, system-ui, sans-serif",
      color: "var(--input-text, #ddd)", background: "var(--comfy-input-bg, #222)",
    });
    this.root.dataset.lora2View = "preview";
    passGestures(this.root);
    const widget = node.addDOMWidget("lora2_preview_view", "lora2_view", this.root, {
      serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT, getMaxHeight: () => HEIGHT,
    });
    widget.serialize = false;
    node.setSize([node.size[0], node.size[1] + HEIGHT + 8]);
  }

  /** Takes an event of the server; those of another run replace what is there. */
  add({ prompt_id, step, image }) {
    if (prompt_id !== this.prompt) this.root.replaceChildren();
    this.prompt = prompt_id;
    const figure = document.createElement("figure");
    Object.assign(figure.style, {
      margin: "0", height: "100%", flex: "none", textAlign: "center",
    });
    const picture = document.createElement("img"), caption = document.createElement("figcaption");
    picture.src = api.apiURL(`/view?${new URLSearchParams(image)}`);
    caption.textContent = picture.alt = step ? `step ${step}` : "before";
    picture.title = `${image.subfolder}/${image.filename}`;
    Object.assign(picture.style, { display: "block", height: "calc(100% - 18px)" });
    picture.addEventListener("load", () => {
      if (picture.naturalHeight < HEIGHT) picture.style.imageRendering = "pixelated";
      this.root.scrollLeft = this.root.scrollWidth;
    });
    figure.append(picture, caption);
    this.root.append(figure);
    while (this.root.childElementCount > MOST) this.root.firstChild.remove();
    this.root.dataset.pictures = String(this.root.childElementCount);
    this.root.dataset.step = String(step);
  }
}

app.registerExtension({
  name: "LoRA2.PreviewView",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      const node = nodeOf(detail.node);
      if (!node) return;
      if (!views.has(node)) views.set(node, new PreviewView(node));
      views.get(node).add(detail);
    });
  },
});
