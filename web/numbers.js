/** Numbers as the views write them. */

/** Three digits (or so many), without needless zeros. */
export function short(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const rounded = Number(value.toPrecision(digits));
  return Math.abs(rounded) >= 1e6 || (rounded && Math.abs(rounded) < 1e-4)
    ? rounded.toExponential().replace("e+", "e")
    : String(rounded);
}

/** 812 B, 5.1 kB, 3.2 MB. */
export function bytes(value) {
  const size = Math.abs(value);
  if (size < 1e3) return `${value} B`;
  return size < 1e6 ? `${short(value / 1e3)} kB` : `${short(value / 1e6)} MB`;
}

export function megabytes(value) {
  return `${value < 10 ? value.toFixed(2) : value < 1000 ? value.toFixed(1) : Math.round(value)} MB`;
}

/** Seconds as 0:07, 12:34 or 3:05:00. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
  return h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
}

/** Steps a second, or seconds a step where that is the larger number, as trainers write it. */
export function pace(perSecond) {
  if (!perSecond) return "–";
  return perSecond >= 1 ? `${short(perSecond)} it/s` : `${short(1 / perSecond)} s/it`;
}

/** The sum of what `of` gives. */
export function total(list, of) {
  return list.reduce((sum, one) => sum + of(one), 0);
}
