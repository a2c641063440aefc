/** What a node needs before it can run, and where that comes from. */

const MODEL = "Connect model: to a checkpoint loader, or to LoRA² Playground, which needs no download.";
const ADAPTER = "Connect lora2: from LoRA² Train, LoRA² Load or LoRA² Compress.";
const NO_FILE =
  "The loras folder is empty. Train a LoRA and keep it with LoRA² Save, or put a file there; then press R.";
const KEEP = "Connect lora2 to LoRA² Save, or the adapter is lost when ComfyUI stops.";
const ALONE = "Nothing is connected to the outputs: the adapter will be kept in the loras folder.";

const linked = (name) => (node) => node.inputs?.find((i) => i.name === name)?.link != null;
const chosen = (name) => (node) => Boolean(node.widgets?.find((w) => w.name === name)?.value);
const either = (...wanted) => (node) => wanted.some((is) => is(node));
const used = (node) => Boolean(node.outputs?.some((o) => o.links?.length));

// for each node what must be there, in the order in which one builds a graph
const NEEDS = {
  LoRA2Train: [
    [linked("model"), MODEL],
    [linked("latents"), "Connect latents and positive: from LoRA² Dataset, which takes a folder of pictures, or from Make Training Dataset."],
    [linked("positive"), "Connect positive: the captions, from the node that gives the latents."],
    [used, ALONE],
  ],
  LoRA2Load: [[chosen("lora_name"), NO_FILE], [linked("model"), MODEL]],
  LoRA2Apply: [[linked("model"), MODEL], [linked("lora2"), ADAPTER]],
  LoRA2Layers: [[linked("model"), MODEL]],
  LoRA2RankHeatmap: [[linked("lora2"), ADAPTER]],
  LoRA2Report: [[linked("lora2"), ADAPTER]],
  LoRA2Save: [[linked("lora2"), ADAPTER]],
  LoRA2Evaluate: [
    [linked("images"), "Connect images: what was drawn with the adapter, from VAE Decode."],
    [linked("references"), "Connect references: real pictures of the subject, from Load Image or LoRA² Example Pictures."],
  ],
  LoRA2Info: [[either(chosen("lora_name"), linked("lora2")), NO_FILE]],
  LoRA2Compress: [[either(chosen("lora_name"), linked("lora")), NO_FILE]],
  LoRA2Dataset: [
    [chosen("folder"), "Put pictures into a folder in ComfyUI's input folder; then press R and choose it."],
    [linked("clip"), "Connect clip and vae: those of the model that is trained."],
    [linked("vae"), "Connect vae: that of the model that is trained."],
  ],
};

/** The first thing that is missing, in a sentence; null when nothing is. */
export function missing(node) {
  const found = (NEEDS[node.comfyClass] ?? []).find(([is]) => !is(node));
  return found ? found[1] : null;
}

// nodes that take an adapter and keep nothing of it
const USES = new Set(["LoRA2RankHeatmap", "LoRA2Info", "LoRA2Report", "LoRA2Apply", "LoraModelLoader"]);

/** What to do with a trained adapter that no node keeps; null where one does, or may. */
export function keptAdvice(node) {
  if (!used(node)) return null; // then the node keeps it
  const links = node.outputs?.slice(0, 2).flatMap((o) => o.links ?? []) ?? []; // lora2, lora
  const takers = links.map((id) => {
    const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
    return node.graph?.getNodeById(link?.target_id)?.comfyClass;
  });
  return takers.every((kind) => USES.has(kind)) ? KEEP : null;
}

/** Calls `changed` when a link or a widget of the node changes. */
export function onChange(node, changed) {
  const connections = node.onConnectionsChange;
  node.onConnectionsChange = function (...args) {
    const result = connections?.apply(this, args);
    requestAnimationFrame(changed); // when the link is in place
    return result;
  };
  for (const widget of node.widgets ?? []) {
    const { callback } = widget;
    if (widget.element) continue;
    widget.callback = function (...args) {
      const result = callback?.apply(this, args);
      changed();
      return result;
    };
  }
  requestAnimationFrame(changed); // when saved values and links are in place
}
