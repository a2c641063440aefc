/** Files of ComfyUI's input folder: put there by its own upload, shown by its own view. */

import { api } from "../../../scripts/api.js";
import { say } from "./words.js";

/**
 * Sends a file into a folder of the input folder and returns the name that it got.
 *
 * @param replace whether it replaces a file of its name; otherwise it gets a new name where another
 *   file has its own
 */
export async function upload(file, folder, replace = false) {
  const body = new FormData();
  body.append("image", file, file.name);
  body.append("type", "input");
  body.append("subfolder", folder);
  if (replace) body.append("overwrite", "true");
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (answer.status === 413) throw new Error(say("larger than the server takes (--max-upload-size)"));
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return (await answer.json()).name;
}

/** Returns the address of a picture in a folder of the input folder; `more` are parameters of /view. */
export function pictureUrl(folder, filename, more = {}) {
  const place = { filename, subfolder: folder, type: "input" };
  return api.apiURL(`/view?${new URLSearchParams({ ...place, ...more })}`);
}
