/** Pictures and captions are put into a folder of the input folder, by the host's own upload. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { html } from "./dom.js";
import { say } from "./words.js";

const TEXTS = [".txt", ".caption"];
// what the host's Pillow reads; the browser knows some by another kind, or by none
const PICTURES = [
  ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff",
  ".gif", ".jp2", ".qoi", ".ppm", ".heic", ".heif", ".jxl",
];
const ENDINGS = [...PICTURES, ...TEXTS];
const FIRST = "pictures"; // the folder that is made where there is none to choose
const MOST_TOLD = 3;

const taken = (file) => ENDINGS.some((ending) => file.name.toLowerCase().endsWith(ending));
const carried = (event) => [...(event.dataTransfer?.files ?? [])];
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Sends a file; the name that the host gave it. It never replaces another: a new name is chosen. */
async function send(file, folder) {
  const body = new FormData();
  body.append("image", file, file.name);
  body.append("type", "input");
  body.append("subfolder", folder);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (answer.status === 413) throw new Error(say("larger than the server takes (--max-upload-size)"));
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return (await answer.json()).name;
}

function short(names) {
  return names.slice(0, MOST_TOLD).join(", ") + (names.length > MOST_TOLD ? ", …" : "");
}

/** The button and the line of a node whose widget `folder` says where pictures go; files can also
 * be dropped on the node and on `root`, its view. */
export function uploadBar(node, root) {
  const told = html("span", { class: "line", role: "status" });
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
    waiting = waiting.then(() => addAll(files)).catch((error) => tell(String(error.message ?? error)));
  }

  function tell(text) {
    told.textContent = told.title = text;
  }

  async function addAll(files) {
    const widget = node.widgets?.find((w) => w.name === "folder");
    const folder = String(widget?.value || FIRST);
    const failed = files.filter((f) => !taken(f)).map((f) => `${f.name} (${say("no picture or caption")})`);
    const wanted = files.filter(taken), renamed = [];
    let done = 0;
    for (const [index, file] of wanted.entries()) {
      tell(say("Adding {0} of {1}", index + 1, wanted.length));
      try {
        const name = await send(file, folder);
        if (name !== file.name) renamed.push(name);
        done += 1;
      } catch (error) {
        failed.push(`${file.name} (${error.message})`);
      }
    }
    const parts = [say("{0} added to {1}", done, folder)];
    if (renamed.length) parts.push(say("names were taken, now: {0}", short(renamed)));
    if (failed.length) parts.push(say("not added: {0}", short(failed)));
    tell(parts.join("; "));
    if (!done || !widget) return;
    await app.refreshComboInNodes?.(); // a new folder is in the list
    widget.value = folder;
    widget.callback?.(folder);
  }

  const over = node.onDragOver, drop = node.onDragDrop;
  node.onDragOver = function (event) {
    return hasFiles(event) || (over?.call(this, event) ?? false);
  };
  node.onDragDrop = function (event) {
    const files = carried(event);
    if (!files.length) return drop?.call(this, event) ?? false;
    add(files);
    return true;
  };
  root.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  root.addEventListener("drop", (event) => {
    const files = carried(event);
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation(); // or the page opens them as workflows
    add(files);
  });
  const bar = html("div", { class: "bar" }, button, told, picker);
  requestAnimationFrame(() => (button.textContent = say("Add pictures"))); // words are there then
  return bar;
}
