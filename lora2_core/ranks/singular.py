"""The singular basis of a low-rank update, from two small Gram matrices instead of the update."""

from __future__ import annotations

import torch
from torch import Tensor

# added to the diagonal, as a share of its mean: lets Cholesky pass where rows depend on each other.
# A few hundred times the rounding error of fp64, which is 2e-16
SLACK = 1e-13


def singular_turn(gram_up: Tensor, gram_down: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (turn, inverse), both [rank, rank] in fp64, which bring an update U D to its singular
    basis: U D = (U inverse) (turn D).

    gram_up = U^T U, gram_down = D D^T. The rows of turn D are orthonormal. The columns of U inverse
    are orthogonal; their lengths are the singular values, largest first. With gram_down = L L^T and
    L^T gram_up L = V S^2 V^T: turn = V^T L^-1, inverse = L V. The product stays U D whatever
    rounding does to V, and U may have less than full rank.
    """
    down = gram_down.double()
    slack = SLACK * down.diagonal().mean().clamp(min=1e-300)
    lower = torch.linalg.cholesky(down + slack * torch.eye(len(down), dtype=down.dtype))
    _, vectors = torch.linalg.eigh(lower.T @ gram_up.double() @ lower)
    vectors = vectors.flip(1)
    turn = torch.linalg.solve_triangular(lower.T, vectors, upper=True).T
    return turn, lower @ vectors
