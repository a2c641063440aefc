"""The attention loss: how spread each query's attention over the prompt is (L_attn of arXiv
2603.21884).
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_entropy(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    """Returns mean over batch, heads and queries of -sum_j P log P, P = softmax(q k^T scale), in
    nats.

    q [..., queries, width], k [..., keys, width]; computed in fp32; scale defaults to width **
    -0.5.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = (q.float() @ k.float().transpose(-1, -2)) * scale
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1).mean()


class EntropyRecord:
    """Collects the entropies of one forward pass; `take` returns their mean and stops, so that
    a forward pass that is computed again for its gradients adds nothing.
    """

    def __init__(self) -> None:
        self.entropies: list[Tensor] = []
        self.taken = False

    def start(self) -> None:
        """Records from now on."""
        self.entropies, self.taken = [], False

    def record(self, q: Tensor, k: Tensor, scale: float | None = None) -> None:
        """Adds one cross-attention call, shapes as in `attention_entropy`."""
        entropy = attention_entropy(
            q, k, scale
        )  # also when it is not kept: autograd counts tensors
        if not self.taken:
            self.entropies.append(entropy)

    def take(self) -> Tensor:
        """Returns mean over the recorded calls, a scalar (zero when nothing was recorded)."""
        recorded, self.entropies, self.taken = self.entropies, [], True
        return torch.stack(recorded).mean() if recorded else torch.zeros(())
