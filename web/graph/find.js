/** Finds nodes of the open graph, also inside subgraphs. */

import { app } from "../../../scripts/app.js";

/** Returns the node of an execution id, "3" or "1:2:3" inside subgraphs; null when there is none. */
export function nodeOf(id) {
  let graph = rootGraph(), node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** Returns the outermost graph, which is what ComfyUI queues. */
export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** Returns every node of a graph and of the subgraphs in it. */
export function allNodes(graph = rootGraph()) {
  return (graph?.nodes ?? []).flatMap((n) => (n.subgraph ? [n, ...allNodes(n.subgraph)] : [n]));
}
