/** A heatmap as a file: SVG, PNG or CSV. */

import { svg, widthOf } from "./dom.js";
import { measuresOf } from "./measures.js";

const INK = "#1a1a1a", PAPER = "#ffffff";
const FONT = "Inter, 'Helvetica Neue', Arial, sans-serif";
const BAR = 96; // pixels, width of a colour scale
const DENSITY = 2; // pixels of the PNG for one of the SVG: sharp on most screens
const STYLE = `
  text { font-family: ${FONT}; font-size: 10px; fill: ${INK}; dominant-baseline: central; }
  text.title { font-size: 15px; font-weight: 600; }
  text.note { font-size: 11px; }
`;

/**
 * Returns a picture on white of drawings below each other, as wide as the widest of them.
 *
 * @param drawings [{title, drawing, scale, ends}]: drawing is a MapDrawing that is built and
 *   painted, scale the colours from one end to the other, ends the texts at both ends
 */
export function standalone(heading, drawings) {
  const pad = 24;
  const width = Math.ceil(Math.max(
    widthOf(heading, 16), ...drawings.map((d) => Math.max(d.drawing.used, headWidth(d))),
  ));
  const body = svg("g");
  let y = pad + 30;
  drawings.forEach(({ title, drawing, scale, ends }, i) => {
    body.append(svg("text", { class: "note", x: pad, y: y + 6 }, title));
    body.append(...legend(`lora2-scale-${i}`, scale, ends, pad + width, y + 6));
    y += 22;
    const part = drawing.element.cloneNode(true);
    part.querySelectorAll(".mark").forEach((mark) => mark.remove());
    body.append(svg("g", { transform: `translate(${pad} ${y})` }, ...part.childNodes));
    y += drawing.height + 14;
  });
  const height = y + pad - 14, wide = width + 2 * pad;
  const size = { width: wide, height, viewBox: `0 0 ${wide} ${height}`, style: `color:${INK}` };
  return svg(
    "svg", { xmlns: "http://www.w3.org/2000/svg", ...size },
    svg("style", {}, STYLE),
    svg("rect", { width: wide, height, fill: PAPER }),
    svg("text", { class: "title", x: pad, y: pad + 6 }, heading),
    body,
  );
}

/** Returns a colour scale between the texts of its ends; it ends at x = `right`. */
function legend(id, scale, [low, high], right, y) {
  const x = right - widthOf(high, 11) - 6 - BAR;
  const stops = scale.map(({ fill, opacity }, i) =>
    svg("stop", { offset: i / (scale.length - 1), "stop-color": fill, "stop-opacity": opacity }),
  );
  return [
    svg("linearGradient", { id }, ...stops),
    svg("text", { class: "note scale", x: x - 6, y, "text-anchor": "end" }, low),
    svg("rect", { class: "scale", x, y: y - 5, width: BAR, height: 10, rx: 2, fill: `url(#${id})` }),
    svg("text", { class: "note scale", x: right, y, "text-anchor": "end" }, high),
  ];
}

/** Returns the width of a drawing's title and colour scale in pixels. */
function headWidth({ title, ends }) {
  return widthOf(title, 12) + widthOf(ends.join(""), 11) + BAR + 48;
}

/** Returns a picture as the bytes of an SVG file. */
export function svgBlob(picture) {
  return new Blob([new XMLSerializer().serializeToString(picture)], { type: "image/svg+xml" });
}

/** Returns a picture as the bytes of a PNG file. */
export async function pngBlob(picture) {
  const address = URL.createObjectURL(svgBlob(picture));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth * DENSITY;
    canvas.height = image.naturalHeight * DENSITY;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((made) => canvas.toBlob(made, "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Returns a table of one line a layer; of two maps, the second one's numbers follow. */
export function csvBlob(maps, cells) {
  const numbers = ["rank", "max_rank", "norm", "bytes", "energy_percent"];
  const heads = maps.length > 1 ? [...numbers, ...numbers.map((n) => `compare_${n}`)] : numbers;
  const measures = maps.map((map) => measuresOf(map.cells).energy);
  const lines = cells.map((cell) => {
    const values = (cell.pair ?? [cell]).flatMap((c, i) =>
      c ? [c.rank, c.max_rank, c.norm, c.bytes, measures[i].of(c)] : numbers.map(() => ""),
    );
    return [cell.name, cell.row, cell.column].map(quoted).concat(values).join(",");
  });
  const text = [["layer", "block", "module", ...heads].join(","), ...lines, ""].join("\r\n");
  return new Blob(["\ufeff", text], { type: "text/csv" });
}

/** Returns a name quoted; names come from files, and a spreadsheet must take none for a formula. */
function quoted(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}
