/** Brings the events of a run to the view of its node, also after a reload and from other tabs. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeOf, rootGraph } from "../graph/find.js";
import { growToSize, hasView } from "../graph/view.js";
import { endedRuns, remember } from "../server/ended.js";
import { markLive, onOutput } from "../server/outputs.js";
import { runsOf, stateOf } from "../server/train_state.js";
import { say } from "../server/words.js";
import { TrainView } from "./train.js";

const EVENT = "lora2.train"; // name of the server's event, and key in the node's ui output
const BEGUN = "lora2.train_begun"; // before a run's first step
const views = new WeakMap(); // node -> its view

/** Returns the view that an event is for; node ids repeat in other workflows. */
function viewOf({ node, workflow }) {
  return (workflow ?? null) === (rootGraph()?.id ?? null) ? views.get(nodeOf(node)) : null;
}

/** Shows the runs of the open workflow that this page has followed, or that ended early. */
function restoreRuns() {
  const workflow = rootGraph()?.id;
  for (const [node, state] of runsOf(workflow)) {
    markLive(nodeOf(node));
    viewOf({ node, workflow })?.show(state);
  }
  for (const event of endedRuns(workflow)) {
    const view = viewOf(event);
    if (!view || view.state.last) continue;
    markLive(nodeOf(event.node));
    view.add(event);
  }
}

app.registerExtension({
  name: "LoRA2.TrainView",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      const view = viewOf(detail);
      if (view) markLive(nodeOf(detail.node));
      if (!view) return void (detail.workflow && stateOf(detail).add(detail)); // it is in another tab
      const begun = detail.run !== view.state.last?.run;
      view.add(detail);
      if (begun || detail.ended) remember(detail);
    });
    api.addEventListener(BEGUN, ({ detail }) => {
      const view = viewOf(detail);
      if (!view) return;
      markLive(nodeOf(detail.node));
      view.begun(detail);
    });
    const stopped = (why) => ({ detail }) => {
      const view = views.get(nodeOf(detail.node_id));
      if (view?.prompt === detail.prompt_id) view?.stopped(say(why));
    };
    api.addEventListener("execution_interrupted", stopped("Cancelled."));
    api.addEventListener("execution_error", stopped("It failed: see the error."));
  },
  afterConfigureGraph: restoreRuns,
  nodeCreated(node) {
    if (!hasView(node, "train")) return;
    const view = new TrainView(node);
    views.set(node, view);
    growToSize(node);
    onOutput(node, (output) => {
      if (output[EVENT]?.[0]) view.add(output[EVENT][0]);
    }, true);
  },
});
