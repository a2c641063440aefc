/** Numbers as texts, the way all views write them. */

/** Returns a number with three significant digits, or `digits`, without needless zeros. */
export function short(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const rounded = Number(value.toPrecision(digits));
  return Math.abs(rounded) >= 1e6 || (rounded && Math.abs(rounded) < 1e-4)
    ? rounded.toExponential().replace("e+", "e")
    : String(rounded);
}

/** Returns a number of bytes as 812 B, 5.1 kB or 3.2 MB. */
export function bytes(value) {
  const size = Math.abs(value);
  if (size < 1e3) return `${value} B`;
  return size < 1e6 ? `${short(value / 1e3)} kB` : `${short(value / 1e6)} MB`;
}

/** Returns a number of megabytes as 3.25 MB, 32.5 MB or 325.0 MB. */
export function megabytes(value) {
  return `${value < 10 ? value.toFixed(2) : value < 1000 ? value.toFixed(1) : Math.round(value)} MB`;
}

/** Returns seconds as 0:07, 12:34 or 3:05:00. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
  return h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
}

/** Returns steps a second, or seconds a step where that is the larger number, as trainers do. */
export function pace(perSecond) {
  if (!perSecond) return "–";
  return perSecond >= 1 ? `${short(perSecond)} it/s` : `${short(1 / perSecond)} s/it`;
}

/** Returns the sum of `of` over a list. */
export function total(list, of) {
  return list.reduce((sum, one) => sum + of(one), 0);
}
