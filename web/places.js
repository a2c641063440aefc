/** Which node an execution id means, and what a node has shown before. */

import { app } from "../../scripts/app.js";

/** The node of an execution id: "3", or "1:2:3" inside subgraphs; null when it isn't there. */
export function nodeOf(id) {
  let graph = rootGraph(), node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The graph that is queued as a whole. */
export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** Every node, also inside subgraphs. */
export function allNodes(graph = rootGraph()) {
  return (graph?.nodes ?? []).flatMap((n) => (n.subgraph ? [n, ...allNodes(n.subgraph)] : [n]));
}
