/** The colours of the views, as the theme's own tokens have them now; followed when these change. */

import { css, mix, palette } from "./colours.js";
import { html } from "./dom.js";

// what a palette of the front end sets in all its versions, from the ground up, and a property of
// the probe that takes it; the last two are a text field and its text
const TOKENS = {
  "outline-color": "--bg-color",
  "border-top-color": "--comfy-menu-bg",
  "background-color": "--comfy-input-bg",
  color: "--input-text",
};
const NOTHING = [34, 34, 34]; // below a theme that is transparent all through

const followers = new Set();
const rules = html("style");
const probe = html("i", { "aria-hidden": "true" });
let known = "";

/** The palette of the views. */
export let theme = palette(NOTHING, [221, 221, 221]);

/** Calls `changed` when the theme changes; returns how to end that. */
export function onTheme(changed) {
  read();
  followers.add(changed);
  return () => followers.delete(changed);
}

/** A computed colour with its alpha; color-mix() gives all of them one form. */
function parts(computed) {
  const [red, green, blue, alpha = 1] = computed.match(/-?[\d.]+(?:e-?\d+)?/g)?.map(Number) ?? [0, 0, 0, 0];
  return { colour: [red, green, blue].map((c) => 255 * Math.min(1, Math.max(0, c))), alpha };
}

/** Any CSS colour as [red, green, blue]. */
export function colourOf(text) {
  const sample = html("i", { style: "display:none" });
  sample.style.color = `color-mix(in srgb, ${text}, ${text})`;
  document.body.append(sample);
  const { colour } = parts(getComputedStyle(sample).color);
  sample.remove();
  return colour;
}

function read() {
  const style = getComputedStyle(probe);
  const found = Object.keys(TOKENS).map((property) => style.getPropertyValue(property));
  if (found.join() === known) return;
  known = found.join();
  const seen = found.map(parts);
  const text = seen.pop();
  const field = seen.reduce((below, { colour, alpha }) => mix(below, colour, alpha), NOTHING);
  theme = palette(field, mix(field, text.colour, text.alpha));
  const { light, ...colours } = theme;
  const lines = Object.entries(colours).map(([name, colour]) => `--lora2-${name}: ${css(colour)};`);
  lines.push(`--lora2-scheme: ${light ? "light" : "dark"};`);
  rules.textContent = `:root { ${lines.join(" ")} }`;
  followers.forEach((changed) => changed());
}

// A transition says that a computed colour has changed, whatever changed it.
probe.style.cssText = "position:fixed;width:0;height:0;visibility:hidden;transition:all 1ms";
for (const [property, token] of Object.entries(TOKENS)) {
  probe.style.setProperty(property, `color-mix(in srgb, var(${token}), var(${token}))`);
}
probe.addEventListener("transitionend", read);
document.head.append(rules);
document.body.append(probe);
read();
