/** Puts pictures and captions into a folder of the input folder, by ComfyUI's own upload. */

import { app } from "../../../scripts/app.js";
import { html } from "../drawing/dom.js";
import { upload } from "../server/files.js";
import { say } from "../server/words.js";

const TEXTS = [".txt", ".caption"];
// files that ComfyUI's Pillow reads; browsers give some of them another media type, or none
const PICTURES = [
  ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff",
  ".gif", ".jp2", ".qoi", ".ppm", ".heic", ".heif", ".jxl",
];
const ENDINGS = [...PICTURES, ...TEXTS];
const FIRST = "pictures"; // the folder that is made where there is none to choose
const MOST_NAMED = 3; // files that a text names

const accepted = (file) => ENDINGS.some((ending) => file.name.toLowerCase().endsWith(ending));
const filesOf = (event) => [...(event.dataTransfer?.files ?? [])];
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Returns the first names of a list as text. */
function listed(names) {
  return names.slice(0, MOST_NAMED).join(", ") + (names.length > MOST_NAMED ? ", …" : "");
}

/**
 * Returns a button and a line of text for a node whose widget `folder` says where pictures go; files
 * can also be dropped on the node and on `root`, its view. `added` is called when some are there.
 */
export function uploadBar(node, root, added = () => {}) {
  const status = html("span", { class: "line", role: "status" });
  const picker = html("input", {
    type: "file", multiple: "", hidden: "", accept: ["image/*", ...ENDINGS].join(","),
    change: () => {
      add([...picker.files]);
      picker.value = "";
    },
  });
  const button = html("button", { type: "button", click: () => picker.click() });
  let waiting = Promise.resolve();

  function add(files) {
    waiting = waiting.then(() => addAll(files)).catch((error) => report(String(error.message ?? error)));
  }

  function report(text) {
    status.textContent = status.title = text;
  }

  async function addAll(files) {
    const widget = node.widgets?.find((w) => w.name === "folder");
    const folder = String(widget?.value || FIRST);
    const failed = files.filter((f) => !accepted(f)).map((f) => `${f.name} (${say("no picture or caption")})`);
    const wanted = files.filter(accepted), renamed = [];
    let done = 0;
    for (const [index, file] of wanted.entries()) {
      report(say("Adding {0} of {1}", index + 1, wanted.length));
      try {
        const name = await upload(file, folder);
        if (name !== file.name) renamed.push(name);
        done += 1;
      } catch (error) {
        failed.push(`${file.name} (${error.message})`);
      }
    }
    const parts = [say("{0} added to {1}", done, folder)];
    if (renamed.length) parts.push(say("names were taken, now: {0}", listed(renamed)));
    if (failed.length) parts.push(say("not added: {0}", listed(failed)));
    report(parts.join("; "));
    if (!done || !widget) return;
    added();
    await app.refreshComboInNodes?.(); // puts a new folder into the list
    widget.value = folder;
    widget.callback?.(folder);
  }

  const over = node.onDragOver, drop = node.onDragDrop;
  node.onDragOver = function (event) {
    return hasFiles(event) || (over?.call(this, event) ?? false);
  };
  node.onDragDrop = function (event) {
    const files = filesOf(event);
    if (!files.length) return drop?.call(this, event) ?? false;
    add(files);
    return true;
  };
  root.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  root.addEventListener("drop", (event) => {
    const files = filesOf(event);
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation(); // or the page opens them as workflows
    add(files);
  });
  const bar = html("div", { class: "bar" }, button, status, picker);
  requestAnimationFrame(() => (button.textContent = say("Add pictures"))); // by then words are loaded
  return bar;
}
