"""Changes of other kinds become pairs: exact where they are products, and else the best pair."""

import pytest
import torch

from lora2_core.adapter import dense
from lora2_core.adapter.compress import compress
from lora2_core.adapter.dense import as_pairs, decomposed, projected
from lora2_core.adapter.lora import RankedLora
from lora2_core.adapter.other_kinds import OtherChange
from tests.reliability.malformed import OTHERS
from tests.toys import global_randomness_untouched, random_lora


def drawn(shapes: dict, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {ending: torch.randn(shape, generator=generator) for ending, shape in shapes.items()}


def naive(t: dict) -> torch.Tensor:
    """The dense update, as LyCORIS defines it."""
    alpha = float(t[".alpha"]) if ".alpha" in t else None
    if ".hada_w1_a" in t:
        scale = 1 if alpha is None else alpha / len(t[".hada_w1_b"])
        if ".hada_t1" in t:
            parts = [torch.einsum("ijkl,jr,ip->prkl", t[f".hada_t{n}"], t[f".hada_w{n}_b"],
                                  t[f".hada_w{n}_a"]) for n in (1, 2)]  # fmt: skip
        else:
            parts = [t[f".hada_w{n}_a"] @ t[f".hada_w{n}_b"] for n in (1, 2)]
        return parts[0] * parts[1] * scale
    first = t[".lokr_w1"] if ".lokr_w1" in t else t[".lokr_w1_a"] @ t[".lokr_w1_b"]
    second, scale = t.get(".lokr_w2"), 1.0
    if second is None and ".lokr_t2" in t:
        second = torch.einsum("ijkl,jr,ip->prkl", t[".lokr_t2"], t[".lokr_w2_b"], t[".lokr_w2_a"])
        second = second.contiguous()
    elif second is None:
        second = t[".lokr_w2_a"] @ t[".lokr_w2_b"]
    if alpha is not None and ".lokr_w2" not in t:
        scale = alpha / len(t[".lokr_w2_b"])
    return torch.kron(first[(...,) + (None,) * (second.ndim - 2)], second) * scale


KINDS = {name: OTHERS[name] for name in OTHERS if name.startswith(("LoHa", "LoKr"))}
KINDS |= {
    "LoKr, whole": {".lokr_w1": [3, 2], ".lokr_w2": [4, 5]},
    "LoKr, whole kernel": {".lokr_w1": [3, 2], ".lokr_w2": [4, 5, 3, 3]},
    "LoHa of a high rank": {
        ".hada_w1_a": [6, 5], ".hada_w1_b": [5, 8], ".hada_w2_a": [6, 5], ".hada_w2_b": [5, 8],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [None, 3.0, -1.0])
def test_a_product_becomes_an_exact_pair(kind: str, alpha: float | None):
    tensors = drawn(KINDS[kind]) | ({} if alpha is None else {".alpha": torch.tensor(alpha)})
    made = as_pairs(RankedLora({}, others={"a": OtherChange(tensors)}))
    layer, wanted = made.lora.layers["a"], naive(tensors)
    assert not made.lora.others and made.beyond == pytest.approx(0, abs=1e-4)
    assert layer.rank <= min(wanted.shape[0], wanted[0].numel())
    torch.testing.assert_close(layer.delta().flatten(1), wanted.flatten(1), rtol=1e-4, atol=1e-4)
    energy = layer.energy
    assert (energy[1:] <= energy[:-1] * 1.001 + 1e-9).all(), "its first positions are its best"


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "diff"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_error_is_the_least_that_the_size_allows(kind: str, share: float):
    """One layer: the best cut is that of its dense update (Eckart-Young)."""
    shapes = KINDS.get(kind) or {".diff": [12, 20]}
    tensors = drawn(shapes)
    update = (tensors[".diff"] if kind == "diff" else naive(tensors)).double()
    rank = max(1, int(share * torch.linalg.matrix_rank(update)))
    budget = rank * sum(update.shape) * 2 / 1e6
    lora = RankedLora({}, others={"a": OtherChange(tensors)})
    cut = compress(lora, budget_mb=budget * 1.0001, tolerance=0.0)
    assert cut.ranks == {"a": rank}
    values = torch.linalg.svdvals(update)
    best = float(values[rank:].norm() / values.norm())
    assert cut.origin.run.settings["compressed"]["error"] == pytest.approx(best, rel=1e-3, abs=1e-6)
    off = float((cut.layers["a"].delta() - update).norm() / update.norm())
    assert off == pytest.approx(best, rel=1e-3, abs=1e-5)


def test_a_large_matrix_is_projected_within_a_percent_of_the_best(monkeypatch):
    monkeypatch.setattr(dense, "EXACT", 10)
    monkeypatch.setattr(dense, "MOST_RANK", 20)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 90, generator=generator))[0] for n in (120, 90))
    values = 1 / torch.arange(1, 91)
    update = (left * values) @ right.T
    with global_randomness_untouched():
        layer, lost = decomposed(update)
    best = float(values[20:].norm())
    assert layer.rank == 20 and lost**0.5 == pytest.approx(best, rel=0.01)
    assert float((layer.delta() - update).norm()) == pytest.approx(best, rel=0.01)
    assert projected(update.double())[1][0] == pytest.approx(1, rel=1e-6)


def test_what_is_left_out_counts_in_the_error(monkeypatch):
    monkeypatch.setattr(dense, "MOST_RANK", 3)
    update = torch.diag(torch.arange(1.0, 7))
    lora = RankedLora({}, others={"a": OtherChange({".diff": update})})
    cut = compress(lora, tolerance=0.01)
    wanted = (1 + 4 + 9) / sum(n * n for n in range(1, 7))
    assert cut.origin.run.settings["compressed"]["error"] == pytest.approx(wanted**0.5, rel=1e-5)


def test_what_has_no_pair_stays_beside_the_pairs():
    bias, norm = torch.randn(24), torch.randn(7)
    others = {
        "a": OtherChange({".diff": torch.randn(24, 16), ".diff_b": bias}),
        "n": OtherChange({".diff": norm}), "o": OtherChange(drawn(OTHERS["OFT"])),
    }  # fmt: skip
    lora = random_lora()
    made = as_pairs(RankedLora(lora.layers, others=others)).lora
    assert list(made.layers) == [*lora.layers, "a"] and list(made.others) == ["a", "n", "o"]
    assert list(made.others["a"].tensors) == [".diff_b"]
    again = as_pairs(RankedLora({}, others=others), lambda name: torch.ones(6, 8)).lora
    assert list(again.layers) == ["a", "n", "o"] or "o" in again.layers
    with pytest.raises(ValueError, match=r"2 changes \(OFT, diff\) can't be cut.*connect model"):
        compress(RankedLora({}, others={"n": others["n"], "o": others["o"]}))
