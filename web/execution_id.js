/** From what the server calls a node to the node. */

import { app } from "../../scripts/app.js";

/** The node of an execution id: "3", or "1:2:3" inside subgraphs. */
export function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph, node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}
