"""The singular basis of a low-rank update from two Gram matrices, without the update itself."""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-13  # of the mean square: keeps rows that depend on each other from stopping Cholesky


def singular_turn(gram_up: Tensor, gram_down: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (turn, inverse), both [rank, rank] in fp64, for the update U D.

    gram_up = U^T U and gram_down = D D^T. The rows of turn D are orthonormal, the columns of
    U inverse are orthogonal and as long as the singular values, which fall. With gram_down = L L^T
    and L^T gram_up L = V S^2 V^T: turn = V^T L^-1 and inverse = L V, so that the product stays
    U D whatever rounding does to V, and U may have less than full rank.
    """
    down = gram_down.double()
    slack = SLACK * down.diagonal().mean().clamp(min=1e-300)
    lower = torch.linalg.cholesky(down + slack * torch.eye(len(down), dtype=down.dtype))
    _, vectors = torch.linalg.eigh(lower.T @ gram_up.double() @ lower)
    vectors = vectors.flip(1)
    turn = torch.linalg.solve_triangular(lower.T, vectors, upper=True).T
    return turn, lower @ vectors
