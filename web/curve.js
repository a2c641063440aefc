/** One curve with its least and greatest value. */

import { write } from "./canvas.js";

const MARGIN = 40; // for the values

/**
 * Draws the last of `keys` (the others faintly behind it) of `points` ({step, ...}) as a line.
 *
 * @param box {x, y, width, height}
 * @param span [first, last] step of the horizontal axis
 */
export function drawCurve(context, box, points, span, { keys, title, colour }, colours) {
  const values = points.flatMap((p) => keys.map((key) => p[key])).filter((v) => v !== null);
  if (!values.length) return;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const left = box.x + MARGIN, width = box.width - MARGIN;
  const top = box.y + 14, height = box.height - 14;
  const x = (step) => left + (width * (step - span[0])) / Math.max(1, span[1] - span[0]);
  const y = (value) => top + (height * (high - value)) / (high - low);

  context.save();
  context.strokeStyle = colours.text;
  context.globalAlpha = 0.15;
  context.lineWidth = 1;
  for (const line of [top, top + height]) {
    context.beginPath();
    context.moveTo(left, line);
    context.lineTo(left + width, line);
    context.stroke();
  }
  context.restore();
  write(context, title, left, box.y + 5, colours.text, { size: 10, alpha: 0.75, most: width });
  const style = { size: 10, align: "right", alpha: 0.65 };
  write(context, short(high), left - 6, top + 2, colours.text, style);
  if (height > 24) write(context, short(low), left - 6, top + height - 2, colours.text, style);

  keys.forEach((key, i) => {
    const main = i === keys.length - 1;
    context.save();
    context.globalAlpha = main ? 1 : 0.35;
    context.strokeStyle = colours[colour];
    context.lineWidth = main ? 2 : 1;
    context.lineJoin = "round";
    context.beginPath();
    for (const point of points) {
      if (point[key] !== null) context.lineTo(x(point.step), y(point[key]));
    }
    context.stroke();
    context.restore();
  });
}

/** Three digits, without needless zeros. */
function short(value) {
  return String(Number(value.toPrecision(3)));
}
