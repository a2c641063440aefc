/** The colours of the views, made from the theme's own and made again when the theme changes. */

import { css, mix, palette } from "./colours.js";
import { html } from "./dom.js";

// CSS variables that every version of the front end sets, each read through a property of the
// probe: the grounds from the lowest to a text field's, and the text in it
const TOKENS = {
  "outline-color": "--bg-color",
  "border-top-color": "--comfy-menu-bg",
  "background-color": "--comfy-input-bg",
  color: "--input-text",
};
const NOTHING = [34, 34, 34]; // the ground below a theme that is transparent all through

const followers = new Set();
const rules = html("style");
const probe = html("i", { "aria-hidden": "true" });
let known = "";

/** The palette of the views now. */
export let theme = palette(NOTHING, [221, 221, 221]);

/** Calls `changed` when the theme changes; returns a function that ends this. */
export function onTheme(changed) {
  read();
  followers.add(changed);
  return () => followers.delete(changed);
}

/** Returns a computed colour and its alpha; color-mix() gives every colour the same form. */
function parts(computed) {
  const [red, green, blue, alpha = 1] = computed.match(/-?[\d.]+(?:e-?\d+)?/g)?.map(Number) ?? [0, 0, 0, 0];
  return { colour: [red, green, blue].map((c) => 255 * Math.min(1, Math.max(0, c))), alpha };
}

/** Returns any CSS colour as [red, green, blue]. */
export function colourOf(text) {
  const sample = html("i", { style: "display:none" });
  sample.style.color = `color-mix(in srgb, ${text}, ${text})`;
  document.body.append(sample);
  const { colour } = parts(getComputedStyle(sample).color);
  sample.remove();
  return colour;
}

/** Reads the theme; where it has changed, makes the palette again and calls who follows it. */
function read() {
  const style = getComputedStyle(probe);
  const values = Object.keys(TOKENS).map((property) => style.getPropertyValue(property));
  if (values.join() === known) return;
  known = values.join();
  const grounds = values.map(parts);
  const text = grounds.pop();
  const field = grounds.reduce((below, { colour, alpha }) => mix(below, colour, alpha), NOTHING);
  theme = palette(field, mix(field, text.colour, text.alpha));
  const { light, ...colours } = theme;
  const lines = Object.entries(colours).map(([name, colour]) => `--lora2-${name}: ${css(colour)};`);
  lines.push(`--lora2-scheme: ${light ? "light" : "dark"};`);
  rules.textContent = `:root { ${lines.join(" ")} }`;
  followers.forEach((changed) => changed());
}

// the end of a transition tells that a computed colour has changed, whatever changed it
probe.style.cssText = "position:fixed;width:0;height:0;visibility:hidden;transition:all 1ms";
for (const [property, token] of Object.entries(TOKENS)) {
  probe.style.setProperty(property, `color-mix(in srgb, var(${token}), var(${token}))`);
}
probe.addEventListener("transitionend", read);
document.head.append(rules);
document.body.append(probe);
read();
