"""The controls of experiment H beside plain LoRA of one rank: other ways to spend its bytes.

recovered: plain LoRA of rank 64, cut to the size by the pack's own compress after a share of the
steps, then trained on. threshold: the same without training on; all layers are cut at one singular
value (PARA, arXiv 2024). lokr, oft: through lycoris-lora. inputs, weights: plain LoRA whose ranks
come from a spectrum known before training (spectra.py). Of a family with several ways, the one with
the least loss on the tuning subjects is claimed on the test subjects.
"""

from __future__ import annotations

RIVALS = "1"  # count up when what a rival does changes: its results are then made anew
THRESHOLD = "threshold"  # trained once, at FULL_RANK, and cut to every size
FULL_RANK = 64
# share of the steps before the cut; 3/4 was worse than 1/2 by 17% on the tuning subjects
SPLITS = {"recovered 1/4": 0.25, "recovered 1/2": 0.5}
# learning rate of the steps before the cut: the best of THRESHOLD, which is trained the same way.
# With 5e-3 the loss of 1/2 on the tuning subjects was higher by 3%
FIRST_RATE = 2.5e-3
BARE = " bare"  # with a constant learning rate and no weight decay, not the pack's
OTHER_KINDS = {"lokr": False, f"lokr{BARE}": True, "oft": False, f"oft{BARE}": True}
SPECTRA = ("inputs", "inputs per byte", "weights")
FAMILIES = {
    "compressed, then trained on": tuple(SPLITS),
    "one threshold": (THRESHOLD,),
    "LoKr": ("lokr", f"lokr{BARE}"),
    "OFT": ("oft", f"oft{BARE}"),
    "ranks by a spectrum": SPECTRA,
}
METHODS = tuple(method for family in FAMILIES.values() for method in family)
NAMES = {
    **{way: f"rank 64, compressed at {way.split()[1]} of the steps, trained on" for way in SPLITS},
    THRESHOLD: "rank 64 cut by one threshold",
    "lokr": "LoKr",
    f"lokr{BARE}": "LoKr, constant rate, no decay",
    "oft": "OFT",
    f"oft{BARE}": "OFT, constant rate, no decay",
    "inputs": "plain LoRA, ranks by the spectrum of inputs",
    "inputs per byte": "plain LoRA, ranks by the spectrum of inputs per byte",
    "weights": "plain LoRA, ranks by the spectrum of weights",
}
SIZES = ((1, 1.0), (1, 0.5), (2, 1.0), (4, 1.0))  # rank, and share of its bytes
TUNED_RANK = 1  # learning rates are tuned at its bytes and used at all
# of OFT: the smallest blocks that change anything, 2 x 2, need more
TOO_SMALL = {("oft", 0.5), (f"oft{BARE}", 0.5)}
NO_SETTING = "no setting is that small"
# around the best on the owl, which was tried first; a way that is clearly worse there has one rate.
# With 2e-2, 1/4 of the steps before the cut was worse by 4%
GRIDS = {
    **dict.fromkeys(SPLITS, (1e-2,)),
    THRESHOLD: (2.5e-3, 5e-3),
    "lokr": (2e-2, 4e-2),
    f"lokr{BARE}": (1e-2,),
    "oft": (1e-2,),
    f"oft{BARE}": (1e-2,),
    "inputs": (1e-2, 2e-2),
    "inputs per byte": (2e-2,),
    "weights": (1e-2, 2e-2),
}


def version(method: str) -> str:
    """Returns what tells results of a rival from those of an earlier form of it."""
    return f"{method} {RIVALS} {FIRST_RATE:g}" if method in SPLITS else f"{method} {RIVALS}"


def trained_rank(method: str, rank: int) -> int:
    """Returns the rank that a run of a rival names: the size it is for, of THRESHOLD that of the
    adapter before it is cut.
    """
    return FULL_RANK if method == THRESHOLD else rank


def cuts_of(method: str) -> tuple[tuple[str, float], ...]:
    """Returns what is cut from an adapter that is trained once for all sizes; () for others."""
    if method != THRESHOLD:
        return ()
    return tuple((method, rank * share) for rank, share in SIZES)


def claimed(losses: dict[str, float]) -> list[str]:
    """Returns the best way of each family, given the loss on the tuning subjects by method."""
    found = []
    for methods in FAMILIES.values():
        if known := [m for m in methods if m in losses]:
            found.append(min(known, key=losses.get))
    return found
