/**
 * Every node of the pack in one table: its colour, its size, what it needs before it can run, what
 * its view says, and what comes next. Its help is docs/<its id>.md; a new node needs an entry here.
 *
 * The folders: drawing/ elements, colours, curves and maps, which know no node; graph/ nodes and
 * their links, and what every view is built on; server/ what the server sends and stores; views/
 * what a node shows inside. Each imports from those named before it only.
 */

// names of the front end's node colours, by what a node is for
const TRAINING = "green", FILES = "purple", SOURCES = "blue", RESULTS = "yellow";

const MODEL = "Connect model: to a checkpoint loader, or to LoRA² Playground, which needs no download.";
const ADAPTER = "Connect lora2: from LoRA² Train, LoRA² Load or LoRA² Compress.";
const NO_FILE =
  "The loras folder is empty. Train a LoRA and keep it with LoRA² Save, or put a file there; then press R.";
const KEEP = "Connect lora2 to LoRA² Save, or the adapter is lost when ComfyUI stops.";
const ALONE = "Nothing is connected to the outputs: the adapter will be kept in the loras folder.";

const linked = (name) => (node) => node.inputs?.find((i) => i.name === name)?.link != null;
const chosen = (name) => (node) => Boolean(node.widgets?.find((w) => w.name === name)?.value);
const linkedFrom = (prefix) => (node) => Boolean(node.inputs?.some((i) => i.name.startsWith(prefix) && i.link != null));
const either = (...conditions) => (node) => conditions.some((holds) => holds(node));

/** Returns whether any output of a node is connected. */
export const used = (node) => Boolean(node.outputs?.some((o) => o.links?.length));

/**
 * The entry of a node:
 *   colour  name of a node colour of the front end's palette
 *   size    [width, height] that the node has at least when it is added, in graph units
 *   needs   [[whether it is there, what to do where it is not]], in the order of building a graph
 *   view    kind: what the node shows inside, by the file of views/ that draws it;
 *           height: the view's least height in graph units; empty: its text before the first run
 *   before  input -> its value in a workflow that was saved before the input was there
 *   next    what to do after a run whose adapter no node keeps
 *   saves   true where a run leaves a LoRA file behind
 *   forgets true where the node takes an adapter and keeps nothing of it
 */
const NODES = {
  LoRA2Playground: { colour: SOURCES, size: [260, 0] },
  LoRA2ExamplePictures: { colour: SOURCES, size: [300, 0] },
  LoRA2Dataset: {
    colour: SOURCES,
    size: [380, 0],
    needs: [
      [chosen("folder"), "Put pictures into a folder in ComfyUI's input folder; then press R and choose it."],
      [linked("clip"), "Connect clip and vae: those of the model that is trained."],
      [linked("vae"), "Connect vae: that of the model that is trained."],
    ],
    view: { kind: "report", height: 140, empty: "Counts, sizes and skipped files appear here after a run." },
  },
  LoRA2Train: {
    colour: TRAINING,
    size: [440, 0],
    needs: [
      [linked("model"), MODEL],
      [linked("latents"), "Connect latents and positive: from LoRA² Dataset, which takes a folder of pictures, or from Make Training Dataset."],
      [linked("positive"), "Connect positive: the captions, from the node that gives the latents."],
      [used, ALONE],
    ],
    view: { kind: "train", height: 420, empty: "Loss, ranks and size appear here during a run." },
    before: { layers: "attention" },
    next: KEEP,
    saves: true,
  },
  LoRA2TrainQueue: {
    colour: TRAINING,
    size: [440, 0],
    needs: [[linked("model"), MODEL], [linked("clip"), "Connect clip and vae: those of the model that is trained."]],
    view: { kind: "train", height: 420, empty: "Loss, ranks and size appear here during a run." },
    before: { layers: "attention" },
    saves: true,
  },
  LoRA2RankOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2TargetOptions: { colour: TRAINING, size: [420, 0] },
  LoRA2Layers: {
    colour: TRAINING,
    size: [420, 0],
    needs: [[linked("model"), MODEL]],
    view: { kind: "report", height: 170, empty: "The layers that would be trained appear here after a run." },
    before: { layers: "attention" },
  },
  LoRA2MemoryOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2OptimizerOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2LossOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2RegularizationOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2DataOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2StartOptions: { colour: TRAINING, size: [340, 0] },
  LoRA2TextEncoderOptions: { colour: TRAINING, size: [340, 0] },
  LoRA2ValidationOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2CheckpointOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2PreviewOptions: { colour: TRAINING, size: [300, 0] },
  LoRA2Preset: { colour: TRAINING, size: [340, 0] },
  LoRA2SavePreset: {
    colour: TRAINING,
    size: [340, 0],
    view: { kind: "report", height: 44, empty: "Name of the preset and what is in it appear here after a run." },
  },
  LoRA2Apply: {
    colour: FILES,
    size: [380, 0],
    needs: [[linked("model"), MODEL], [linked("lora2"), ADAPTER]],
    view: { kind: "size", height: 148, empty: "Run once to see what every size keeps." },
    forgets: true,
  },
  LoRA2Load: {
    colour: FILES,
    size: [380, 0],
    needs: [[chosen("lora_name"), NO_FILE], [linked("model"), MODEL]],
    view: { kind: "size", height: 148, empty: "Run once to see what every size keeps." },
  },
  LoRA2BlockStrengths: { colour: FILES, size: [340, 0] },
  LoRA2Compress: {
    colour: FILES,
    size: [340, 0],
    needs: [[either(chosen("lora_name"), linked("lora")), NO_FILE]],
    view: { kind: "report", height: 44, empty: "Sizes and the error appear here after a run." },
  },
  LoRA2CompressFolder: {
    colour: FILES,
    size: [340, 0],
    view: { kind: "report", height: 80, empty: "Every file with its sizes appears here after a run." },
    saves: true,
  },
  LoRA2Merge: {
    colour: FILES,
    size: [380, 0],
    needs: [
      [either(linkedFrom("loras."), linked("lora_stack")), "Connect LoRAs: from LoRA² Load, LoRA² Compress or LoRA² Save, or a lora_stack."],
    ],
    view: { kind: "report", height: 80, empty: "Sizes and the error appear here after a run." },
  },
  LoRA2Extract: {
    colour: FILES,
    size: [380, 0],
    needs: [
      [either(linked("model"), chosen("model_file")), "Connect model, the tuned one, or choose its file in model_file."],
      [either(linked("base"), chosen("base_file")), "Connect base, the model that it was tuned from, or choose its file in base_file."],
    ],
    view: { kind: "report", height: 120, empty: "Size, error and energy appear here after a run." },
  },
  LoRA2Save: {
    colour: FILES,
    size: [340, 0],
    needs: [[linked("lora2"), ADAPTER]],
    view: { kind: "report", height: 44, empty: "Name and size of the file appear here after a run." },
    saves: true,
  },
  LoRA2RankHeatmap: {
    colour: RESULTS,
    size: [480, 420],
    needs: [[linked("lora2"), ADAPTER]],
    view: { kind: "heatmap", height: 260, empty: "Every layer's rank appears here after a run." },
    forgets: true,
  },
  LoRA2Info: {
    colour: RESULTS,
    size: [380, 0],
    needs: [[either(chosen("lora_name"), linked("lora2")), NO_FILE]],
    view: { kind: "report", height: 170, empty: "Size, ranks and training facts appear here after a run." },
    forgets: true,
  },
  LoRA2Report: {
    colour: RESULTS,
    size: [380, 0],
    needs: [[linked("lora2"), ADAPTER]],
    forgets: true,
  },
  LoRA2Evaluate: {
    colour: RESULTS,
    size: [380, 0],
    needs: [
      [linked("images"), "Connect images: what was drawn with the adapter, from VAE Decode."],
      [linked("references"), "Connect references: real pictures of the subject, from Load Image or LoRA² Example Pictures."],
    ],
    view: { kind: "report", height: 44, empty: "The scores appear here after a run." },
  },
  LoRA2Compare: { colour: RESULTS, size: [480, 0] },
  LoraModelLoader: { forgets: true }, // ComfyUI's own loader of a trained LoRA
};

// colours of links and sockets by type, unless a palette has its own
export const SOCKETS = {
  LORA2: "#d9a520",
  LORA2_OPTIONS: "#5f9e6e",
  LORA2_SCORES: "#7a6bb0",
  LORA2_STRENGTHS: "#b0765a",
  LORA_MODEL: "#a9781c",
  LORA_STACK: "#8f7a3a",
};

/** Returns the entry of a node, empty for one that is not of the pack. */
export function entryOf(node) {
  return NODES[node?.comfyClass] ?? {};
}
