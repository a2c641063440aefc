/** Zooming and panning go on while the pointer is over a view, as over the rest of its node. */

import { app } from "../../../scripts/app.js";

const MIDDLE = 1; // the button's number
const MIDDLE_BIT = 4; // the same button in `buttons`

/** Hands the wheel and the middle button on to the graph. The Vue renderer does it by itself. */
export function passGestures(element) {
  const pass = (type, wanted, handle) => {
    element.addEventListener(type, (event) => {
      if (window.LiteGraph?.vueNodesMode || !wanted(event)) return;
      event.preventDefault();
      handle(event);
    });
  };
  pass("wheel", () => true, (event) => app.canvas.processMouseWheel(event));
  pass("pointerdown", (e) => e.button === MIDDLE, (event) => app.canvas.processMouseDown(event));
  pass("pointermove", (e) => e.buttons & MIDDLE_BIT, (event) => app.canvas.processMouseMove(event));
  pass("pointerup", (e) => e.button === MIDDLE, (event) => app.canvas.processMouseUp(event));
}
