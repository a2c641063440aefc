/** Colour scales: cividis for amounts, the theme's blue and orange for differences. */

// Cividis in nine even steps: even in lightness and safe for every kind of colour blindness.
const CIVIDIS = [
  [0, 34, 78], [28, 54, 112], [64, 74, 108], [90, 95, 109], [115, 117, 117],
  [143, 139, 120], [172, 163, 110], [205, 189, 93], [254, 232, 56],
];

/** How a cell of a share in [0, 1] is painted: {fill, opacity, ink}. */
export function amount(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mixed = CIVIDIS[low].map((c, i) => Math.round(c + (CIVIDIS[low + 1][i] - c) * (at - low)));
  const [red, green, blue] = mixed;
  const dark = 0.3 * red + 0.59 * green + 0.11 * blue < 128;
  return { fill: `rgb(${mixed.join(", ")})`, opacity: 1, ink: dark ? "#fff" : "#111" };
}

/** The same for a difference in [-1, 1]. */
export function difference(share) {
  const size = Math.min(Math.abs(share), 1);
  if (!size) return { fill: "currentColor", opacity: 0.1, ink: "currentColor" };
  const fill = share < 0 ? "var(--lora2-below, #2c6fbb)" : "var(--lora2-above, #c4600d)";
  return { fill, opacity: 0.15 + 0.85 * size, ink: size > 0.6 ? "#fff" : "currentColor" };
}
