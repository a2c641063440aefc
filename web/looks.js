/** Colour of the title and width of nodes that a user adds; a saved workflow's own stay. */

import { app } from "../../scripts/app.js";
import { contrast } from "./colours.js";
import { colourOf } from "./theme.js";
import { atLeast } from "./view.js";

const TITLE = 4.5; // least contrast of a title on its colour
const TRAINING = "green", FILES = "purple", SOURCES = "blue", FINDINGS = "yellow"; // of the palette
const LOOKS = {
  LoRA2Playground: [SOURCES, 260],
  LoRA2ExamplePictures: [SOURCES, 300],
  LoRA2Dataset: [SOURCES, 380],
  LoRA2Train: [TRAINING, 440],
  LoRA2RankOptions: [TRAINING, 300],
  LoRA2TargetOptions: [TRAINING, 420],
  LoRA2Layers: [TRAINING, 420],
  LoRA2MemoryOptions: [TRAINING, 300],
  LoRA2OptimizerOptions: [TRAINING, 300],
  LoRA2LossOptions: [TRAINING, 300],
  LoRA2DataOptions: [TRAINING, 300],
  LoRA2StartOptions: [TRAINING, 340],
  LoRA2TextEncoderOptions: [TRAINING, 340],
  LoRA2CheckpointOptions: [TRAINING, 300],
  LoRA2PreviewOptions: [TRAINING, 300],
  LoRA2Apply: [FILES, 380],
  LoRA2Load: [FILES, 380],
  LoRA2Compress: [FILES, 340],
  LoRA2Save: [FILES, 340],
  LoRA2RankHeatmap: [FINDINGS, 480],
  LoRA2Info: [FINDINGS, 380],
  LoRA2Report: [FINDINGS, 380],
  LoRA2Evaluate: [FINDINGS, 380],
  LoRA2Compare: [FINDINGS, 480],
};

// of links and sockets in the classic renderer; lora2.css has them for the other
const SOCKETS = { LORA2: "#d9a520", LORA2_OPTIONS: "#5f9e6e", LORA_MODEL: "#a9781c", LORA2_SCORES: "#7a6bb0" };

/** A palette empties what it does not know, at every change of theme: a property stays ours. */
function colourLinks() {
  const tables = [window.LGraphCanvas?.link_type_colors, app.canvas?.default_connection_color_byType];
  for (const table of tables.filter(Boolean)) {
    for (const [type, colour] of Object.entries(SOCKETS)) {
      let own = table[type]; // a palette's own choice
      const known = { get: () => own || colour, set: (value) => (own = value) };
      Object.defineProperty(table, type, { ...known, enumerable: true, configurable: true });
    }
  }
}

/** Whether a title can be read on a colour; palettes that say that they are light lighten it. */
function suits(colour) {
  const lightened = getComputedStyle(document.documentElement).colorScheme === "light";
  return lightened || contrast(colourOf(window.LiteGraph.NODE_TITLE_COLOR), colourOf(colour)) >= TITLE;
}

app.registerExtension({
  name: "LoRA2.Looks",
  setup: colourLinks,
  nodeCreated(node) {
    const look = LOOKS[node.comfyClass];
    if (!look || app.configuringGraph) return;
    const [name, width] = look;
    const { bgcolor, color } = window.LGraphCanvas?.node_colors?.[name] ?? {};
    const colour = [bgcolor, color].find((c) => c && suits(c)); // the second one is darker
    if (colour) node.color = colour;
    atLeast(node, width, 0);
  },
});
