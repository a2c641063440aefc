/**
 * Workflows that were saved before an input was there keep their meaning: where a saved node has no
 * value for the input, it gets the one that nodes.js gives, not the default of new nodes. A list of
 * values without names is in the order of the inputs.
 */

import { app } from "../../../scripts/app.js";
import { entryOf } from "../nodes.js";

app.registerExtension({
  name: "LoRA2.OlderWorkflows",
  nodeCreated(node) {
    const { before } = entryOf(node);
    if (!before || !node.widgets) return;
    const saved = node.widgets.filter((w) => w.serialize !== false);
    const { onConfigure } = node;
    node.onConfigure = function (stored, ...rest) {
      const result = onConfigure?.call(this, stored, ...rest);
      const values = stored.widgets_values;
      if (!Array.isArray(values)) return result;
      saved.forEach((widget, i) => {
        if (values[i] === undefined && widget.name in before) widget.value = before[widget.name];
      });
      return result;
    };
  },
});
