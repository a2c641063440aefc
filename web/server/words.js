/** Texts of the views in the user's language, from "lora2" in locales/<language>/main.json. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

let translations = {}; // English text -> text in the user's language

/** Returns a text in the user's language; the other arguments replace {0}, {1} and so on. */
export function say(text, ...values) {
  return (translations[text] ?? text).replace(/\{(\d)\}/g, (_, i) => String(values[i]));
}

app.registerExtension({
  name: "LoRA2.Words",
  async init() {
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    if (language === "en") return;
    const answer = await api.fetchApi("/i18n");
    if (answer.ok) translations = (await answer.json())[language]?.lora2 ?? {};
  },
});
