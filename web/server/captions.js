/**
 * Captions of a data set's pictures. The pack's server route lists them, ComfyUI's own upload saves an
 * edited one as a .txt file beside its picture. An edited text is a draft until it is saved: it stays
 * through every change of the page's graph, it is saved before anything is queued, and the browser
 * asks before a page with drafts is closed.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { upload } from "./files.js";
import { say } from "./words.js";

const drafts = new Map(); // key of a picture -> {folder, index, row, text, fault}
let turn = Promise.resolve(); // captions are saved one after another

/** Tells of each change of drafts or files by an event `changed`, whose `folder` is the data set's. */
export const captions = new EventTarget();

const keyOf = (folder, name) => JSON.stringify([folder, name]);

function changed(folder) {
  captions.dispatchEvent(Object.assign(new Event("changed"), { folder }));
}

/** Returns `count` rows of a folder from row `first` on, as lora2_core/dataset/caption_table.py has them. */
export async function listCaptions(folder, first, count) {
  const answer = await api.fetchApi(`/lora2/captions?${new URLSearchParams({ folder, first, count })}`);
  if (answer.status === 404) throw new Error(say("The server has no list of captions: start ComfyUI again."));
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

/** Returns the draft of a picture, undefined where it has none. */
export function draftOf(folder, name) {
  return drafts.get(keyOf(folder, name));
}

/** Notes what a person has typed; `row` is the picture's as it was listed, `index` its number. */
export function edit(folder, index, row, text) {
  const known = draftOf(folder, row.name);
  drafts.set(keyOf(folder, row.name), { folder, index, row: known?.row ?? row, text, fault: "" });
}

/** Forgets what was typed for a picture. */
export function revert(folder, name) {
  if (drafts.delete(keyOf(folder, name))) changed(folder);
}

/** Saves the draft of a picture; `anyway` also where its file changed after the row was listed. */
export function save(folder, name, anyway = false) {
  const draft = draftOf(folder, name);
  if (!draft) return turn;
  turn = turn.then(() => write(draft, anyway)).catch((error) => {
    draft.fault = say("Not saved: {0}", error.message ?? error);
  });
  return turn.then(() => changed(folder));
}

/** Saves every draft that has no fault. */
export async function saveAll() {
  await Promise.all([...drafts.values()].filter((d) => !d.fault).map((d) => save(d.folder, d.row.name)));
}

async function write(draft, anyway) {
  const { folder, index, row, text } = draft, key = keyOf(folder, row.name);
  if (drafts.get(key) !== draft) return; // typed on since: that draft is saved by itself
  const [now] = (await listCaptions(folder, index, 1)).rows;
  if (now?.name !== row.name) throw new Error(say("the folder has changed: open the list again"));
  if (now.locked) throw new Error(now.locked);
  if (now.caption !== row.caption && now.caption !== text.trim() && !anyway) {
    draft.fault = say("Not saved: the file has changed meanwhile. It says: {0}", now.caption ?? "");
    return;
  }
  const file = new File([text.trim()], now.text_file, { type: "text/plain" });
  const into = [folder, now.folders].filter(Boolean).join("/");
  const name = await upload(file, into, true);
  if (name !== now.text_file) throw new Error(say("the server called the file {0}", name));
  if (drafts.get(key) === draft) drafts.delete(key);
  else drafts.get(key).row = { ...row, caption: text.trim() };
}

app.registerExtension({
  name: "LoRA2.Captions",
  setup() {
    const queue = api.queuePrompt;
    api.queuePrompt = async function (...args) {
      await saveAll(); // a run trains on what the table shows
      return queue.apply(this, args);
    };
    window.addEventListener("beforeunload", (event) => {
      if (drafts.size) event.preventDefault();
    });
  },
});
