/** What a node needs before it can run, and what comes after: read from the table in nodes.js. */

import { entryOf, used } from "../nodes.js";

/** Returns what to do about the first thing that is missing, null when nothing is. */
export function missing(node) {
  const need = entryOf(node).needs?.find(([there]) => !there(node));
  return need ? need[1] : null;
}

/** Returns what to do next with a trained adapter that no node keeps, null where one may keep it. */
export function nextStep(node) {
  if (!used(node)) return null; // then the node itself keeps the adapter
  const links = node.outputs?.slice(0, 2).flatMap((o) => o.links ?? []) ?? []; // lora2, lora
  const takers = links.map((id) => {
    const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
    return node.graph?.getNodeById(link?.target_id);
  });
  return takers.every((taker) => entryOf(taker).forgets) ? (entryOf(node).next ?? null) : null;
}

/** Calls `changed` when a link or a widget of the node changes. */
export function onChange(node, changed) {
  const connections = node.onConnectionsChange;
  node.onConnectionsChange = function (...args) {
    const result = connections?.apply(this, args);
    requestAnimationFrame(changed); // by then the link is in place
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
  requestAnimationFrame(changed); // by then saved values and links are in place
}
