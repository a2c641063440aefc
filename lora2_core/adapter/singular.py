"""The singular basis of a low-rank update, from two small Gram matrices instead of the update."""

from __future__ import annotations

import torch
from torch import Tensor

# added to the diagonal, as a share of its mean: lets Cholesky pass where rows depend on each other.
# A few hundred times the rounding error of fp64, which is 2e-16
SLACK = 1e-13


def singular_turn(gram_up: Tensor, gram_down: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (turn, inverse), both [..., rank, rank] in fp64, which bring an update U D to its
    singular basis: U D = (U inverse) (turn D).

    gram_up = U^T U, gram_down = D D^T. The rows of turn D are orthonormal. The columns of U inverse
    are orthogonal; their lengths are the singular values, largest first. With gram_down = L L^T and
    L^T gram_up L = V S^2 V^T: turn = V^T L^-1, inverse = L V. The product stays U D whatever
    rounding does to V, and U may have less than full rank.
    """
    down = gram_down.double()
    slack = SLACK * down.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-300)
    identity = torch.eye(down.shape[-1], dtype=down.dtype)
    lower = torch.linalg.cholesky(down + slack[..., None, None] * identity)
    _, vectors = torch.linalg.eigh(lower.mT @ gram_up.double() @ lower)
    vectors = vectors.flip(-1)
    turn = torch.linalg.solve_triangular(lower.mT, vectors, upper=True).mT
    return turn, lower @ vectors


def in_singular_basis(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (up, down), fp64, of the same product in its singular basis, each with the square
    roots of the singular values. Neither the product nor a QR decomposition is formed: three
    products and one rank x rank eigendecomposition, a third of the time of both.

    up: [out, rank]. down: [rank, fan_in]. rank is at most min(out, fan_in).
    """
    up, down = up.double(), down.double()
    gram_up, gram_down = up.T @ up, down @ down.T
    squares = gram_up.diagonal(), gram_down.diagonal()
    used = (squares[0] > 0) & (squares[1] > 0)
    if not used.any():
        return torch.zeros_like(up), torch.zeros_like(down)
    # equal lengths of both factors of a position, so that neither Gram matrix squares a range
    balance = torch.where(used, (squares[1] / squares[0]) ** 0.25, 0.0)
    back = torch.where(used, 1 / balance, 0.0)
    gram_up = balance[:, None] * gram_up * balance
    turn, inverse = singular_turn(gram_up, back[:, None] * gram_down * back)
    root = (inverse * (gram_up @ inverse)).sum(0).clamp(min=0) ** 0.25
    inverse = torch.where(root > 0, balance[:, None] * inverse / root, 0.0)
    return up @ inverse, (root[:, None] * turn * back) @ down


def reduced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (up, down), fp64, of the same product, for a rank above min(out, fan_in): the product
    itself, which is smaller, beside an identity.
    """
    product = up.double() @ down.double()
    rows, columns = product.shape
    if rows <= columns:
        return torch.eye(rows, dtype=product.dtype, device=product.device), product
    return product, torch.eye(columns, dtype=product.dtype, device=product.device)
