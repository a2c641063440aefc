/** What the views say, in the language of the front end: locales/<language>/main.json, "lora2". */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let table = {};

/** The text in the user's language; {0}, {1}, ... are replaced by the other arguments. */
export function say(text, ...values) {
  return (table[text] ?? text).replace(/\{(\d)\}/g, (_, i) => String(values[i]));
}

app.registerExtension({
  name: "LoRA2.Words",
  async init() {
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    if (language === "en") return;
    const answer = await api.fetchApi("/i18n");
    if (answer.ok) table = (await answer.json())[language]?.lora2 ?? {};
  },
});
