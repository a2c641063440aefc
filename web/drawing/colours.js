/** Colours as [red, green, blue] of 0 to 255: contrast, the palette of a view, the scales of a map. */

const BLACK = [0, 0, 0], WHITE = [255, 255, 255];
// least contrasts, a little above what WCAG 2 asks for, as colours are rounded
const TEXT = 4.6; // of text and its ground; WCAG 2 asks for 4.5
const SHAPE = 3.1; // of a line or a cell at full colour and its ground; WCAG 2 asks for 3
const DARK = 10; // of white and a dark ground, so that the tints of notes stay dark too
const BRIGHT = 0.18; // luminance from which black is easier to read than white
const FAULT = [229, 72, 77];
const ACCENTS = {
  dark: { loss: [255, 217, 90], rank: [134, 182, 255], below: [91, 157, 240], above: [240, 138, 60] },
  light: { loss: [138, 98, 0], rank: [31, 95, 191], below: [44, 111, 187], above: [196, 96, 13] },
};

// Cividis in nine even steps: even in lightness and safe for every kind of colour blindness.
const CIVIDIS = [
  [0, 34, 78], [28, 54, 112], [64, 74, 108], [90, 95, 109], [115, 117, 117],
  [143, 139, 120], [172, 163, 110], [205, 189, 93], [254, 232, 56],
];

/** Returns a colour as CSS. */
export function css(colour) {
  return `rgb(${colour.map(Math.round).join(", ")})`;
}

/** Returns one colour with a share in [0, 1] of another. */
export function mix(colour, other, share) {
  return colour.map((c, i) => c + (other[i] - c) * share);
}

/** Returns the relative luminance in [0, 1] of a colour (WCAG 2). */
function luminance(colour) {
  const [red, green, blue] = colour.map((c) => {
    const part = c / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Returns the contrast ratio of two colours, from 1 to 21 (WCAG 2). */
export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** Returns black or white, whichever is easier to read on a ground: at least 4.58 on any. */
function inkOn(ground) {
  return luminance(ground) < BRIGHT ? WHITE : BLACK;
}

/** Returns the colour, or the nearest lighter or darker one with that contrast on every ground. */
function readable(colour, grounds, least) {
  const end = inkOn(grounds[0]);
  for (let share = 0; share < 1; share += 0.04) {
    const moved = mix(colour, end, share);
    if (grounds.every((ground) => contrast(moved, ground) >= least)) return moved;
  }
  return end;
}

/**
 * Returns every colour of a view, made from the colours of a text field of the theme. The luminance
 * of the field says whether the view is light or dark, so any palette will do, also one whose own
 * contrast is small.
 */
export function palette(field, text) {
  const light = luminance(field) >= BRIGHT;
  const ground = light ? mix(field, WHITE, 0.8) : readable(field, [WHITE], DARK);
  const accents = Object.entries(ACCENTS[light ? "light" : "dark"]);
  const shapes = accents.map(([name, colour]) => [name, readable(colour, [ground], SHAPE)]);
  const { loss, ...others } = Object.fromEntries(shapes);
  const note = mix(ground, loss, 0.16), fault = mix(ground, FAULT, 0.24);
  const hover = mix(ground, inkOn(ground), 0.12);
  const ink = readable(text, [ground, note, fault, hover], TEXT);
  const faint = readable(mix(ink, ground, 0.32), [ground], TEXT);
  return { light, ground, note, fault, hover, ink, faint, loss, ...others };
}

/** The palette of a picture on white paper. */
export const PAPER = palette(WHITE, [26, 26, 26]);

const cell = (colour) => ({ fill: css(colour), opacity: 1, ink: css(inkOn(colour)) });

/** Returns how a cell of a share in [0, 1] is painted: {fill, opacity, ink}. */
export function amount(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return cell(mix(CIVIDIS[low], CIVIDIS[low + 1], at - low));
}

/** Returns how a cell of a difference in [-1, 1] is painted, in the colours of a palette. */
export function difference(share, { ground, ink, below, above }) {
  const size = Math.min(Math.abs(share), 1);
  if (!size) return cell(mix(ground, ink, 0.1));
  return cell(mix(ground, share < 0 ? below : above, 0.15 + 0.85 * size));
}
