/** What the view of a run says: its numbers as tiles, and how it ended. */

import { html } from "../drawing/dom.js";
import { duration, megabytes, pace, short } from "../drawing/numbers.js";
import { say } from "../server/words.js";

/** Returns an element for each number of a run; one that has stopped has no time left to show. */
export function tilesOf({ last, point, finished }, stopped) {
  const limit = last.ceiling ? ` / ${megabytes(last.ceiling)}` : "";
  const size = megabytes(point.mb).replace(limit ? " MB" : "", "");
  const time = finished
    ? [say("took"), duration(last.passed)]
    : [say("time left"), stopped ? "–" : duration(last.left)];
  const numbers = [
    [stepAndEpoch(last), `${last.step} / ${last.steps}`],
    [say("loss"), point.loss === null ? say("not a number") : short(point.smooth)],
    [say("mean rank"), point.mean_rank.toFixed(1)],
    [say(limit ? "size / limit" : "size"), `${size}${limit}`],
    [say("speed"), pace(last.pace)],
    time,
  ];
  return numbers.map(([name, value]) =>
    html("div", { class: "tile" }, html("b", { class: "line" }, value), html("small", {}, name)),
  );
}

/** Returns "step", and the epoch where the number of pictures is known. */
function stepAndEpoch({ epoch, epochs }) {
  if (!Number.isFinite(epoch) || !Number.isFinite(epochs)) return say("step");
  const [at, of] = epochs < 10 ? [epoch.toFixed(1), epochs.toFixed(1)] : [epoch, epochs].map(Math.floor);
  return `${say("step")} · ${say("epoch {0} / {1}", at, of)}`;
}

/** Returns how a run ended before its last step, and where its adapter is. */
export function endOf({ why, kept }) {
  const reason = say(why === "cancelled" ? "Cancelled." : "It failed: see the error.");
  return `${reason} ${kept ? say("Kept so far: {0}", kept) : say("What it had learned could not be saved.")}`;
}
