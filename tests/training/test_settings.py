"""Settings refuse a bad value in one sentence: the setting, the value, what to give."""

import pytest

from lora2_core import RankSettings, TrainSettings
from lora2_core.paths import quoted
from lora2_core.ranks.modes import FIRST_SHARE

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = [NAN, INF, -INF, True, "64", "", [64], 10**400, -(10**400)]
RANGES = [
    (RankSettings, "budget_mb", [-1, -1e-9, 1e7]),
    (RankSettings, "quantile", [0, 1, -0.5, 1.5]),
    (RankSettings, "tolerance", [-1e-9, 1.01]),
    (RankSettings, "rank_weight", [-1e-9, 1e4]),
    (RankSettings, "attention_weight", [-1, 1e4]),
    (RankSettings, "rate_learning_rate", [-1, 1e4]),
    (TrainSettings, "learning_rate", [-1e-4, 11]),
    (TrainSettings, "decay", [-1e-9, 1.01]),
    (TrainSettings, "weight_decay", [-1e-9, 1e4]),
    (TrainSettings, "beta1", [-1e-9, 1]),
    (TrainSettings, "beta2", [-1e-9, 1]),
    (TrainSettings, "max_norm", [-1e-9, 1e7]),
    (TrainSettings, "ema", [-1e-9, 1]),
]
WHOLE = [
    (RankSettings, "target_rank", [0, -1, 4097]),
    (RankSettings, "max_rank", [0, -8, 5000]),
    (RankSettings, "start_rank", [0, -1, 257]),
    (TrainSettings, "steps", [0, -1, 10**7]),
    (TrainSettings, "seed", [-1, 2**64]),
    (TrainSettings, "warmup_steps", [-1, 10**7]),
]
# a rank of 64.0 would pass as a number, and fail as a tensor's size an hour later
BAD = [(c, f, v) for c, f, values in RANGES + WHOLE for v in [*values, *NO_NUMBERS]]
BAD += [(c, f, v) for c, f, _ in WHOLE for v in (2.5, 64.0)]
BAD += [(RankSettings, "mode", v) for v in ("Adaptive", "", None, 1)]
BAD += [(RankSettings, "init", v) for v in ("kaiming", "", 0)]
BAD += [(TrainSettings, "optimizer", v) for v in ("Adam", "", None)]
BAD += [(TrainSettings, "schedule", v) for v in ("cos", "", 0)]
BAD += [(c, f, None) for c, f, _ in RANGES[:1] + WHOLE[:2] + WHOLE[3:]]


@pytest.mark.parametrize(("kind", "field", "value"), BAD, ids=lambda v: repr(v)[:24])
def test_a_bad_value_gives_one_sentence(kind: type, field: str, value: object):
    with pytest.raises(ValueError) as caught:
        kind(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field} is {quoted(value)}: ")
    assert "give a " in message or "choose " in message, "the remedy"
    assert message.endswith(".") and "\n" not in message


def test_max_rank_below_target_rank():
    with pytest.raises(ValueError) as caught:
        RankSettings(target_rank=65, max_rank=64)
    message = "max_rank 64 is below target_rank 65: raise max_rank or lower target_rank."
    assert str(caught.value) == message


def test_the_defaults_are_the_public_ones():
    settings = RankSettings()
    assert (settings.mode, settings.target_rank, settings.max_rank) == ("adaptive", 16, 256)
    assert settings.budget_mb == 0 and settings.tolerance is None
    assert TrainSettings() == TrainSettings(steps=500, learning_rate=1e-4, seed=0, decay=None)


@pytest.mark.parametrize(("mode", "quantile"), [("adaptive", 0.3), ("paper", 0.9), ("fixed", 0.9)])
def test_every_mode_has_a_quantile_of_its_own(mode: str, quantile: float):
    assert RankSettings(mode=mode).quantile == RankSettings(mode=mode, quantile=None).quantile
    assert RankSettings(mode=mode).quantile == quantile
    assert RankSettings(mode=mode, quantile=0.7).quantile == 0.7


@pytest.mark.parametrize("share", [0, 0.0, 0.5, 1])
def test_shares_may_be_nothing_or_everything(share: float):
    assert RankSettings(tolerance=share).tolerance == share
    assert TrainSettings(decay=share).decay == share


@pytest.mark.parametrize(
    ("chosen", "ceiling", "first"),
    [
        ({"mode": "paper"}, 16, 16),
        ({"mode": "paper", "budget_mb": 1.0}, 7.3, 16),
        ({"mode": "fixed"}, 16, 16),
        ({"mode": "adaptive"}, 16, FIRST_SHARE * 16),
        ({"mode": "adaptive", "budget_mb": 1.0}, 7.3, round(FIRST_SHARE * 7.3)),
        ({"mode": "adaptive", "budget_mb": 1.0}, 0.01, 1),
        ({"mode": "adaptive", "budget_mb": 100.0}, 1e4, 256),
        ({"mode": "adaptive", "target_rank": 200}, 200, 256),
        ({"mode": "adaptive", "start_rank": 5}, 16, 5),
        ({"mode": "fixed", "start_rank": 5}, 16, 5),
    ],
    ids=str,
)
def test_the_first_rank(chosen: dict, ceiling: float, first: int):
    """Adaptive runs start above the ceiling, be it a rank or a size, and descend to it."""
    assert RankSettings(**chosen).first_rank(ceiling) == first


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        RankSettings().target_rank = 8
