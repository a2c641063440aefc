/** Elements of HTML and SVG, made from text that is never parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

/** Returns an HTML element; functions among the attributes are its listeners. */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Returns an SVG element; functions among the attributes are its listeners. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

const pen = document.createElement("canvas").getContext("2d");

/** Returns the width of a text in pixels. */
export function widthOf(text, size = 10) {
  pen.font = `400 ${size}px Inter, system-ui, sans-serif`;
  return pen.measureText(text).width;
}

/** Returns a text that is at most `most` pixels wide, with … where it was cut. */
export function cut(text, most, size = 10) {
  let shown = text;
  while (shown.length > 1 && widthOf(shown, size) > most) {
    shown = `${shown.replace(/…$/, "").slice(0, -1)}…`;
  }
  return shown;
}

/** Copies a text to the clipboard, also on insecure pages, which have no clipboard API. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const field = html("textarea", { style: "position:fixed;opacity:0" });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** Gives the user a file to save. */
export function download(name, blob) {
  const address = URL.createObjectURL(blob);
  html("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
