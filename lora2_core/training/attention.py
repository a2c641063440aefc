"""The attention loss: how widely each query's attention is spread over the prompt (L_attn of arXiv
2603.21884).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def attention_entropy(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    """Returns the mean over batch, heads and queries of -sum_j P log P in nats, P = softmax(q k^T
    scale), computed in fp32.

    q [..., queries, width], k [..., keys, width]; scale: width ** -0.5 where it is None.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = (q.float() @ rearrange(k.float(), "... keys width -> ... width keys")) * scale
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1).mean()


class EntropyRecord:
    """The attention entropies of one forward pass. `take` ends the recording, so that a pass that
    is computed a second time, for its gradients, adds nothing.
    """

    def __init__(self) -> None:
        self.entropies: list[Tensor] = []
        self.taken = False

    def start(self) -> None:
        """Begins to record a forward pass."""
        self.entropies, self.taken = [], False

    def record(self, q: Tensor, k: Tensor, scale: float | None = None) -> None:
        """Adds one cross-attention call, shapes as in `attention_entropy`."""
        # also when it is not kept: a pass that is computed again must make the same tensors
        entropy = attention_entropy(q, k, scale)
        if not self.taken:
            self.entropies.append(entropy)

    def take(self) -> Tensor:
        """Ends the recording and returns the mean over the recorded calls, a scalar; zero without
        any.
        """
        recorded, self.entropies, self.taken = self.entropies, [], True
        return torch.stack(recorded).mean() if recorded else torch.zeros(())
