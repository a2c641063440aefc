"""Low-rank pairs of changes that are none: what Compress can cut.

Where a change is a product, its pair is exact and the dense update is never formed. Any other one
is decomposed, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .kernels import as_matrix
from .lora import LoraLayer, RankedLora
from .other_kinds import OtherChange, pair_size

MOST_RANK = 512  # positions kept of a layer: more is no small adapter, and the rest is counted
EXACT = 1024  # rows or columns up to which all singular values are computed
# a projection takes longer than all singular values where it keeps more than a third of them
NARROW = 3
OVERSAMPLED, ITERATIONS = 32, 4  # of a random projection: the error is within 1 % of the best one
# the update of a layer, dense; None where it has none
Dense = Callable[[str], Tensor | None]


def nothing(name: str) -> None:
    """Returns that no update is known."""


@dataclass(frozen=True)
class Pairs:
    """Holds an adapter whose changes are pairs, as far as they can be.

    beyond: energy, the squared norm, of the positions above MOST_RANK that were left out.
    """

    lora: RankedLora
    beyond: float


def as_pairs(lora: RankedLora, dense: Dense = nothing) -> Pairs:
    """Returns the adapter with low-rank pairs in place of all changes that have one.

    dense: gives the update of a layer where the base model is known, for kinds that depend on its
    weights. What has no pair stays as it is.
    """
    layers, others, beyond = dict(lora.layers), {}, 0.0
    for name, change in lora.others.items():
        rest = {e: t for e, t in change.tensors.items() if e in (".diff_b", ".b_norm")}
        made = None if name in layers else product_of(change)
        if made is None and name not in layers and (update := dense(name)) is not None:
            made = decomposed(update)
        elif made is None and name not in layers and is_matrix(change):
            made = decomposed(change.tensors[".diff"].float())
        if made is None:
            others[name] = change
            continue
        layer, lost = made
        layers[name], beyond = layer, beyond + lost
        if rest:
            others[name] = OtherChange(rest)
    return Pairs(replace(lora, layers=layers, others=others, singular=False), beyond)


def is_matrix(change: OtherChange) -> bool:
    """Returns whether a change is the full update of a matrix or a convolution. The host takes such
    a one alone, whatever pair is beside it.
    """
    return change.kind == "diff" and change.tensors[".diff"].ndim > 1


def product_of(change: OtherChange) -> tuple[LoraLayer, float] | None:
    """Returns the pair of a change that is a product, and the energy that it leaves out; None for
    any other change.
    """
    make = {"LoHa": loha, "LoKr": lokr}.get(change.kind)
    endings = change.tensors.keys()
    if make is None or ".diff" in endings or ".set_weight" in endings or pair_size(change.shapes):
        return None
    return make({e: t.float() for e, t in change.tensors.items()})


def alpha_of(tensors: Mapping[str, Tensor], rank: int | None) -> float:
    """Returns alpha / rank, 1 where one of them is unknown."""
    alpha = tensors.get(".alpha")
    return 1.0 if alpha is None or rank is None else float(alpha) / rank


def loha(tensors: Mapping[str, Tensor]) -> tuple[LoraLayer, float]:
    """Returns the pair of (A1 B1) * (A2 B2), element by element: its columns are the products of a
    column of A1 and one of A2, so its rank is at most the product of both ranks.
    """
    scale = alpha_of(tensors, len(tensors[".hada_w1_b"]))
    if ".hada_t1" in tensors:
        first, second = (
            torch.einsum(
                "ij...,jr,ip->pr...",
                tensors[f".hada_t{n}"], tensors[f".hada_w{n}_b"], tensors[f".hada_w{n}_a"],
            )
            for n in (1, 2)
        )  # fmt: skip
        return decomposed(first * second * scale)
    (a1, b1), (a2, b2) = ((tensors[f".hada_w{n}_a"], tensors[f".hada_w{n}_b"]) for n in (1, 2))
    rank = a1.shape[1] * a2.shape[1]
    if rank > min(MOST_RANK, len(a1), b1.shape[1]):
        return decomposed((a1 @ b1) * (a2 @ b2) * scale)
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("in,jn->ijn", b1, b2).flatten(0, 1)
    return LoraLayer(up * scale, down).rotated(), 0.0


def lokr(tensors: Mapping[str, Tensor]) -> tuple[LoraLayer, float]:
    """Returns the pair of a Kronecker product, whose singular values are the products of those of
    both factors.
    """
    rank = None
    factors = []
    for n in (1, 2):
        factor = tensors.get(f".lokr_w{n}")
        if factor is None:
            a, b = tensors[f".lokr_w{n}_a"], tensors[f".lokr_w{n}_b"]
            rank, core = len(b), tensors.get(".lokr_t2") if n == 2 else None
            factor = a @ b if core is None else torch.einsum("ij...,jr,ip->pr...", core, b, a)
        factors.append(factor)
    kernel = tuple(factors[1].shape[2:]) or None
    scale = alpha_of(tensors, rank)
    if kernel is not None and len(kernel) != 2:  # the host spreads such a factor in its own way
        (a, b), (c, d, *_) = (factor.shape for factor in factors)
        return decomposed(torch.kron(*factors).reshape(a * c, b * d, *kernel) * scale)
    (u1, s1, v1), (u2, s2, v2) = (
        torch.linalg.svd(as_matrix(factor).double(), full_matrices=False) for factor in factors
    )
    values = torch.outer(s1, s2).flatten() * abs(scale)
    order = values.argsort(descending=True, stable=True)
    order = order[values[order] > 0]
    kept, cut = order[:MOST_RANK], order[MOST_RANK:]
    first, second = kept // len(s2), kept % len(s2)
    root = values[kept].sqrt()
    up = torch.einsum("ar,cr->acr", u1[:, first], u2[:, second]).flatten(0, 1) * root
    down = torch.einsum("rb,rd->rbd", v1[first], v2[second]).flatten(1) * root[:, None]
    sign = -1.0 if scale < 0 else 1.0
    layer = LoraLayer((sign * up).float(), down.float(), kernel)
    return layer, float(values[cut].square().sum())


def decomposed(
    update: Tensor, most: int | None = None, dtype: torch.dtype = torch.float64
) -> tuple[LoraLayer, float]:
    """Returns the pair of a dense update [out, in, ...] in its singular basis, of at most `most`
    positions, MOST_RANK without a number, and the energy of the others: the squared norm of the
    update less that of the pair, which is exact however good the projection is.

    dtype: what is computed in. fp32 takes half of the time, and is exact enough for a pair in fp32.
    """
    most = MOST_RANK if most is None else most
    kernel, matrix = tuple(update.shape[2:]) or None, as_matrix(update).to(dtype)
    small = min(matrix.shape) <= EXACT and min(matrix.shape) < NARROW * (most + OVERSAMPLED)
    if small:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        left, values, right = projected(matrix, most)
    rank = min(most, int((values > 1e-7 * values[0]).sum())) if len(values) else 0
    root = values[:rank].sqrt()
    up, down = left[:, :rank] * root, root[:, None] * right[:rank]
    lost = float(values[rank:].double().square().sum())
    if not small:
        whole = torch.linalg.vector_norm(matrix, dtype=torch.float64).square()
        lost = float(whole - values[:rank].double().square().sum())
    return LoraLayer(up.float().cpu(), down.float().cpu(), kernel), max(0.0, lost)


def projected(matrix: Tensor, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the `most` largest singular values and vectors of a matrix, and some more, by a
    random projection with power iterations (Halko, Martinsson, Tropp 2011). The seed is fixed.
    """
    most = MOST_RANK if most is None else most
    generator = torch.Generator().manual_seed(0)
    width = min(most + OVERSAMPLED, *matrix.shape)
    basis = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype)
    basis = basis.to(matrix.device)
    basis = torch.linalg.qr(matrix @ basis)[0]
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis)[0])[0]
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right
