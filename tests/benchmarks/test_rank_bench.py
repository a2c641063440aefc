"""The parts of the rank experiments that need no host: pictures, ledger, tuning, statistics."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from tests.benchmarks.ranks import quality, rivals, statistics, styles, truncation, wide
from tests.benchmarks.ranks.pictures import STYLE_SETS, TEST, TUNING, split, style_set
from tests.benchmarks.ranks.plan import RESIZE_RANKS, RESIZES, Plan
from tests.benchmarks.ranks.runs import ATTENTION, FLOW, PLAYGROUND, Ledger, Run, key_of
from tests.benchmarks.ranks.statistics import Estimate, Point
from tests.benchmarks.ranks.tuning import (
    CLASSES,
    FLOW_CLASSES,
    FLOW_WIDE_RANKS,
    RIVAL_CLASSES,
    WIDE,
    WIDE_CLASSES,
    WIDE_RANKS,
    next_rates,
    tune,
)
from tests.benchmarks.ranks.versions import version_of

FIXED = [c for c in CLASSES if c.method == "fixed"]
RATES = {c.name: {"rate": 0.01, "loss": 1.0, "losses": {"0.01": 1.0}} for c in CLASSES}


def row_of(config: dict, version: str | None = None, **measures) -> dict:
    found = version_of(config["method"]) if version is None else version
    return {"config": config, "version": found, "seconds": 1.0} | measures


def finish(ledger: Ledger, runs: list[Run], loss=lambda config: 0.1, **measures) -> None:
    """As if the runs had been done."""
    for run in dict.fromkeys(runs):
        rows = []
        for config in run.configs():
            size = config["cut"][1] if config["cut"] else config["rank"]
            value = loss(config)
            losses = {k: value for k in quality.LOSSES}
            sizes = {"mb": 0.02 * max(size, 1), "ranks": [1, 2, 3 + run.seed]}
            rows.append(row_of(config, **losses, **sizes, **measures))
        ledger.add(rows)


# pictures


@pytest.mark.parametrize("subject", [*TUNING, *TEST])
def test_split_has_the_promised_pictures_and_none_twice(subject: str):
    sets = split(subject)
    assert {k: len(v) for k, v in sets.items()} == {"train": 6, "background": 12, "style": 5}
    every = list(chain(*sets.values()))
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("subject", [*TUNING, *TEST])
def test_only_the_style_set_has_the_style_left_out(subject: str):
    sets = split(subject)
    held = {p.style for p in sets["style"]}
    assert len(held) == 1
    assert held.isdisjoint(p.style for p in [*sets["train"], *sets["background"]])
    assert {p.style for p in sets["train"]} == {p.style for p in sets["background"]}


def test_tuning_and_test_subjects_differ():
    assert not set(TUNING) & set(TEST)


def test_style_set_is_all_test_subjects_in_one_style():
    pictures = style_set(STYLE_SETS[2])["train"]
    assert {p.style for p in pictures} == {"twemoji"}
    assert {p.subject for p in pictures} == set(TEST)
    assert len(set(pictures)) == 2 * len(TEST)


def test_pictures_are_images_with_their_captions():
    picture = split("owl")["train"][0]
    image = picture.image()
    assert image.shape == (32, 32, 3) and image.min() >= 0 and image.max() <= 1
    assert picture.caption.startswith("owl, ")


# ledger


def test_a_run_survives_its_json():
    run = Plan(10, 1).run(("cat face", 0), "fixed", 64)
    assert run.cuts and Run.from_json(run.to_json()) == run


def test_every_adapter_of_a_run_has_its_own_key():
    run = Plan(10, 1).run(("cat face", 0), "fixed", 64)
    keys = {key_of(config) for config in run.configs()}
    assert len(keys) == 1 + len(RESIZES) * len(RESIZE_RANKS)


def test_only_rows_of_the_second_base_name_theirs():
    """So that rows of before there was a choice keep their keys."""
    run = Run("owl", "fixed", 4, 0.01)
    assert "base" not in run.configs()[0]
    assert replace(run, base=FLOW).configs()[0] == run.configs()[0] | {"base": FLOW}


def test_an_interrupted_ledger_goes_on(tmp_path: Path):
    """Whole lines count, half a line does not and spoils nothing that comes after."""
    runs = [Run("owl", "fixed", rank, 0.01) for rank in (1, 2)]
    finish(Ledger(tmp_path), runs[:1])
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"config": {"pict')
    again = Ledger(tmp_path)
    assert again.done(runs[0]) and not again.done(runs[1])
    finish(again, runs[1:])
    assert all(Ledger(tmp_path).done(run) for run in runs)


def test_a_run_is_done_with_all_its_cuts_only(tmp_path: Path):
    run = Run("owl", "adaptive", 16, 0.01, cuts=(("truncated", 0.5),))
    ledger = Ledger(tmp_path)
    ledger.add([row_of(run.configs()[0])])
    assert not ledger.done(run)
    ledger.add([row_of(run.configs()[1])])
    assert ledger.done(run)


def test_results_of_other_sources_count_only_when_reused(tmp_path: Path):
    run = Run("owl", "fixed", 4, 0.01)
    Ledger(tmp_path).add([row_of(run.configs()[0], "old")])
    assert not Ledger(tmp_path).done(run)
    assert not Ledger(tmp_path, ["paper"]).done(run)
    assert Ledger(tmp_path, ["fixed"]).done(run)


def test_a_current_result_wins_over_a_reused_one(tmp_path: Path):
    run = Run("owl", "fixed", 4, 0.01)
    ledger = Ledger(tmp_path)
    ledger.add([row_of(run.configs()[0], background=1.0)])
    ledger.add([row_of(run.configs()[0], "old", background=2.0)])
    assert Ledger(tmp_path, ["fixed"]).of(run)[0]["background"] == 1.0


def test_versions_differ_by_method_and_repeat():
    version_of.cache_clear()
    methods = ("fixed", "paper", "adaptive", "base", "lokr", "threshold")
    first = {m: version_of(m) for m in methods}
    version_of.cache_clear()
    assert {m: version_of(m) for m in first} == first
    assert len(set(first.values())) == len(methods)


# plan


def test_seeds_come_one_after_the_other_and_cover_everything():
    runs = [run for run in Plan(10, 2).quality(RATES) if run.method != "base"]
    assert [run.seed for run in runs] == [0] * (len(runs) // 2) + [1] * (len(runs) // 2)
    for seed in (0, 1):
        found = {(r.pictures, r.method, r.rank) for r in runs if r.seed == seed}
        assert found == {(s, c.method, c.rank) for s in TEST for c in CLASSES}


def test_only_the_first_seed_is_sampled():
    assert all(run.samples == (run.seed == 0) for run in Plan(10, 3).quality(RATES))


def test_truncation_shares_its_runs_with_quality():
    plan = Plan(10, 1)
    own = set(plan.truncation(RATES)) - set(plan.quality(RATES))
    assert {(run.method, run.rank, run.share) for run in own} == {("adaptive", 2, 0.8)}


# tuning


@pytest.mark.parametrize(
    ("losses", "rates"),
    [
        ({0.1: 3.0, 0.2: 2.0, 0.4: 1.0}, [0.8]),
        ({0.1: 1.0, 0.2: 2.0, 0.4: 3.0}, [0.05]),
        ({0.1: 1.0, 0.2: 2.0, 0.4: math.inf}, [0.05]),
        ({0.1: 3.0, 0.2: 1.0, 0.4: 2.0}, []),
        ({0.1: 3.0, 0.2: 2.0, 0.4: 1.0, 0.8: 0.9, 1.6: 0.8}, []),
    ],
)
def test_a_best_rate_at_the_edge_moves_it(losses: dict, rates: list):
    assert next_rates(losses, (0.1, 0.2, 0.4)) == rates


@pytest.mark.parametrize(
    ("wanted", "tried"),
    [
        (0.012, [0.005, 0.01, 0.02]),
        (0.0026, [0.0025, 0.005, 0.01, 0.02]),
        (1.0, [0.01, 0.02, 0.04, 0.08]),
    ],
)
def test_tuning_finds_the_best_rate_and_stops(tmp_path: Path, wanted: float, tried: list):
    ledger, done = Ledger(tmp_path), []

    def work(runs: list[Run]) -> None:
        done.extend(run for run in runs if not ledger.done(run))
        finish(ledger, runs, lambda c: 1 + abs(math.log(c["rate"] / wanted)))

    found = tune(FIXED, ledger, work, 10, quick=False)["fixed 8"]
    assert found["loss"] == min(found["losses"].values())
    assert sorted(map(float, found["losses"])) == sorted(tried)
    before = len(done)
    assert tune(FIXED, ledger, work, 10, quick=False)["fixed 8"] == found
    assert len(done) == before, "nothing is run twice"


def test_all_layers_are_compared_with_attention_alone(tmp_path: Path):
    """Made-up losses: adaptive on all layers has 0.9 of plain LoRA's there, and half of the best
    loss of attention alone.
    """
    plan, ledger, names = Plan(10, 2), Ledger(tmp_path), [*CLASSES, *WIDE_CLASSES]
    rates = {c.name: {"rate": 0.01} for c in names}
    finish(ledger, plan.quality(rates), lambda c: 0.2)
    wanted = wide.runs(plan, rates)
    finish(ledger, wanted, lambda c: 0.1 if c["method"] == "adaptive" else 0.1 / 0.9)
    attention = quality.collect(plan, ledger, rates)
    found = wide.collect(plan, ledger, rates)
    text = wide.table(found, attention)
    losses, _, _ = text.partition("on all pictures")
    assert losses.count("| 0.900 (0.900 to 0.900), 12 of 12 |") == len(WIDE_RANKS)
    assert text.count("| 0.500 (0.500 to 0.500), 12 of 12 |") == 2 * (len(WIDE_RANKS) + 1)
    assert "0.500 (0.500 to 0.500), 12 of 12, 0.900" in wide.about(found, attention)


def test_a_size_that_is_decided_has_no_further_seeds(tmp_path: Path):
    """Made-up losses: at rank 1 adaptive is always better by as much, at rank 2 for every other
    subject.
    """
    plan, ledger = Plan(10, 3), Ledger(tmp_path)
    rates = {c.name: {"rate": 0.01} for c in [*CLASSES, *WIDE_CLASSES]}

    def loss(config: dict) -> float:
        better = config["rank"] == 1 or TEST.index(config["pictures"]) % 2
        ours = config["method"] == "adaptive" and config["rank"] in (1, 2) and better
        return 0.1 + 0.001 * TEST.index(config["pictures"]) - 0.01 * ours

    first = wide.undecided(plan, ledger, rates, 0)
    finish(ledger, first, loss)
    again = wide.undecided(plan, ledger, rates, 1)
    sizes = {(run.method, run.rank * run.share) for run in again}
    assert ("fixed", 1) not in sizes and ("adaptive", 1) not in sizes
    assert {("fixed", 2), ("adaptive", 2), ("adaptive", 0.5)} <= sizes
    assert {run.seed for run in again} == {1} and wide.undecided(plan, ledger, rates, 0) == first


# rivals


def of_rivals(loss: dict[str, float] | None = None) -> dict:
    """Rates as if all rivals had been tuned, with these losses or 1."""
    return {
        c.name: {"rate": 0.01, "loss": (loss or {}).get(c.method, 1.0)}
        for c in (*CLASSES, *WIDE_CLASSES, *RIVAL_CLASSES)
    }


def test_the_best_way_of_each_family_is_claimed():
    plan, rates = Plan(10, 1), of_rivals({"lokr bare": 0.5, "weights": 0.7, "oft bare": 2.0})
    methods = {run.method for run in wide.rival_runs(plan, rates)}
    assert methods == {"recovered 1/4", "threshold", "lokr bare", "oft", "weights"}
    assert rivals.claimed({"oft": 1.0}) == ["oft"]
    assert not wide.rival_runs(plan, {})
    assert not wide.rival_runs(replace(plan, base_model=FLOW), rates)


def test_rivals_have_the_sizes_of_all_others_where_they_can():
    """Each at the rate of one size; what is cut is trained once."""
    rates = of_rivals()
    rates["threshold 64, all in blocks"]["rate"] = 0.005
    runs = [run for run in wide.rival_runs(Plan(10, 1), rates) if run.pictures == TEST[0]]
    sizes = {method: [] for method in rivals.claimed({c.method: 1.0 for c in RIVAL_CLASSES})}
    for run in runs:
        cuts = [size for _, size in run.cuts]
        sizes[run.method] += cuts or [run.rank * run.share]
        assert run.rate == (0.005 if cuts else 0.01) and run.layers == WIDE
    everywhere = {rank * share for rank, share in rivals.SIZES}
    assert {method: set(found) for method, found in sizes.items()} == {
        method: everywhere - {0.5} if method == "oft" else everywhere for method in sizes
    }
    assert sum(run.method == "threshold" for run in runs) == 1


def test_tuning_looks_at_the_cut(tmp_path: Path):
    """What is trained to be cut has the rate at which the cut is best."""
    ledger, classes = Ledger(tmp_path), [c for c in RIVAL_CLASSES if c.method == "threshold"]

    def loss(config: dict) -> float:
        return config["rate"] if config["cut"] is None else 1 / config["rate"]

    found = tune(classes, ledger, lambda runs: finish(ledger, runs, loss), 10, quick=False)
    assert found["threshold 64, all in blocks"]["rate"] == classes[0].grid[-1]


def test_adaptive_is_compared_with_every_rival_and_the_best_of_them(tmp_path: Path):
    """Made-up losses: LoKr is the best control at half of them, the others are at 0.2."""
    plan, ledger, rates = Plan(10, 2), Ledger(tmp_path), of_rivals()
    losses = {"adaptive": 0.1, "lokr": 0.125}
    finish(ledger, plan.quality(rates), lambda c: 0.2)
    finish(ledger, wide.runs(plan, rates), lambda c: losses.get(c["method"], 0.2))
    attention, found = quality.collect(plan, ledger, rates), wide.collect(plan, ledger, rates)
    text = wide.table(found, attention)
    assert "one threshold, same layers | 0.500 (0.500 to 0.500), 12 of 12 |" in text
    assert text.count("| LoKr, same layers | 0.800 (0.800 to 0.800), 12 of 12 |") == 4
    assert text.count("| the best of these of its bytes (LoKr") == 4
    assert f"| OFT | 0.5 | {rivals.NO_SETTING} |" in text
    assert "0.800 (0.800 to 0.800), 12 of 12 over the best control" in wide.about(found, attention)


def test_a_rival_counts_once_it_has_every_subject(tmp_path: Path):
    plan, ledger, rates = Plan(10, 1), Ledger(tmp_path), of_rivals()
    finish(ledger, wide.runs(plan, {c.name: rates[c.name] for c in WIDE_CLASSES}))
    runs = wide.rival_runs(plan, rates)
    finish(ledger, [r for r in runs if r.method == "lokr" or r.pictures in TEST[:2]])
    methods = {method for method, _ in wide.collect(plan, ledger, rates).points}
    assert methods == {"fixed", "adaptive", "lokr"}


def test_the_row_of_another_kind_has_its_setting():
    setting = {"factor": -1, "lora_dim": 6, "alpha": 6, "decompose_both": True, "use_tucker": False}
    rows = [{"ranks": [0, 0], "setting": setting}]
    assert wide.spread(rows) == "factor -1, lora_dim 6, decompose_both"
    assert wide.spread([{"ranks": [0, 2]}, {"ranks": [1, 7]}]) == "0 to 7"


def test_the_second_base_has_runs_of_its_own(tmp_path: Path):
    """All of H on it: both kinds of layers, its own learning rates, no samples and no cuts."""
    plan = Plan(10, 2, base_model=FLOW)
    rates = {c.name: {"rate": 0.001 * (1 + i)} for i, c in enumerate(FLOW_CLASSES)}
    runs = wide.runs(plan, rates)
    assert {run.base for run in runs} == {FLOW}
    assert not any(run.samples or run.cuts for run in runs)
    trained = [run for run in runs if run.method != "base"]
    assert len(trained) == len(FLOW_CLASSES) * len(plan.pairs)
    assert {run.layers for run in trained} == {ATTENTION, WIDE}
    assert {run.rate for run in trained} == {found["rate"] for found in rates.values()}
    seeds = [run.seed for run in trained]
    assert seeds == sorted(seeds), "a seed is complete before the next one begins"
    assert not {c.name for c in FLOW_CLASSES} & {c.name for c in (*CLASSES, *WIDE_CLASSES)}


def test_the_table_of_the_second_base_holds_its_rows_alone(tmp_path: Path):
    ledger, rates = Ledger(tmp_path), {c.name: {"rate": 0.01} for c in (*CLASSES, *FLOW_CLASSES)}
    plan, flow = Plan(10, 2), Plan(10, 2, base_model=FLOW)
    finish(ledger, plan.quality(rates), lambda c: 99.0)
    finish(ledger, wide.runs(flow, rates), lambda c: 0.1 if c.get("layers") == WIDE else 0.2)
    text = wide.second_table(flow, ledger, rates)
    assert "99.0" not in text
    assert text.count("| 0.500 (0.500 to 0.500), 12 of 12 |") == 2 * len(FLOW_WIDE_RANKS)
    both = wide.collect(flow, ledger, rates), quality.collect(flow, ledger, rates)
    assert wide.about(*both, "There", "I").startswith("**There.**")
    assert plan.base_model == PLAYGROUND


# statistics


def test_interval_is_students():
    found = statistics.interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert found.mean == 3.5
    assert found.half == pytest.approx(2.571 * math.sqrt(3.5 / 6), rel=1e-3)
    assert math.isnan(statistics.interval([1.0]).half)


def test_seeds_are_averaged_before_subjects():
    values = {("a", 0): 0.0, ("a", 1): 2.0, ("b", 0): 3.0}
    assert statistics.over_subjects(values) == statistics.interval([1.0, 3.0])


def test_pairing_takes_the_level_of_a_subject_off():
    first = {(s, seed): 10.0 * i + seed for i, s in enumerate("abc") for seed in (0, 1)}
    second = {pair: value + 1 for pair, value in first.items()}
    assert statistics.difference(first, second) == Estimate(-1.0, 0.0)
    alone = statistics.without_subjects([first, second])
    assert [e.mean for e in alone] == pytest.approx([10.5, 11.5])
    assert max(e.half for e in alone) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="No subject and seed"):
        statistics.difference({("a", 0): 1.0}, {("b", 0): 1.0})


def points(*of: tuple[float, float]) -> list[Point]:
    """The same (MB, loss) for two subjects."""
    pairs = [("a", 0), ("b", 0)]
    return [Point({p: mb for p in pairs}, {p: math.log(loss) for p in pairs}) for mb, loss in of]


def test_interpolation_is_linear_in_both_logarithms():
    curve = points((1, 0.4), (4, 0.1))
    at = [math.exp(statistics.interpolated(curve, ("a", 0), mb)) for mb in (0.5, 1, 2, 4, 8)]
    assert at == pytest.approx([0.4, 0.4, 0.2, 0.1, 0.1])


@pytest.mark.parametrize(
    ("mb", "loss", "which"),
    [
        (2.0, 0.2, "falls"),  # between two sizes
        (4.0, 0.1, "falls"),
        (0.5, 0.4, "falls"),  # below all sizes: the smallest
        (8.0, 0.1, "falls"),
        (16.0, 0.05, "point, 16.000 MB"),  # a method of one size counts from there on
        (15.0, 0.1, "falls"),
    ],
)
def test_envelope_is_the_best_control_of_the_size(mb: float, loss: float, which: str):
    controls = {"falls": points((1, 0.4), (4, 0.1)), "point": points((16, 0.05))}
    name, values = statistics.envelope(controls, {("a", 0): mb, ("b", 0): mb})
    assert name.startswith(which)
    assert [math.exp(v) for v in values.values()] == pytest.approx([loss, loss])


def test_a_smaller_control_counts_where_a_larger_one_is_worse():
    controls = {"overfits": points((1, 0.1), (4, 0.3))}
    name, values = statistics.envelope(controls, {("a", 0): 4.0, ("b", 0): 4.0})
    assert name == "overfits, 1.000 MB"
    assert math.exp(values["a", 0]) == pytest.approx(0.1)


def test_spearman_sees_order_and_shares_places():
    assert statistics.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert statistics.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert list(statistics.places([5, 1, 5])) == [2.5, 1, 2.5]
    assert math.isnan(statistics.pearson([1, 1], [1, 2]))


# tables


def of_adaptive(config: dict) -> float:
    """Adaptive is a tenth better than plain, the base far worse; subjects have levels."""
    level = 1 + len(config["pictures"]) / 10
    if config["method"] == "base":
        return 10 * level
    worth = 0.9 if config["method"] == "adaptive" else 1.0
    return level * worth / (1 + config["rank"]) * (2 if config["cut"] else 1)


def test_quality_table_gives_the_paired_ratio(tmp_path: Path):
    plan, ledger = Plan(10, 2), Ledger(tmp_path)
    measures = dict.fromkeys(quality.SAMPLES, 0.5)
    finish(ledger, plan.quality(RATES), of_adaptive, **measures)
    found = quality.collect(plan, ledger, RATES)
    assert len(found.pairs) == 12
    assert "0.900 (0.900 to 0.900)" in quality.ratio_table(found, "background")
    text = quality.table(found)
    assert all(quality.NAMES[method] in text for method, _ in found.sizes)
    assert "No adaptive adapter reaches" in text, "rank 64 of plain is best here"


def test_only_complete_pairs_are_compared(tmp_path: Path):
    plan, ledger = Plan(10, 2), Ledger(tmp_path)
    runs = plan.quality(RATES)
    finish(ledger, runs[: len(runs) // 2 + 5])
    pairs = quality.collect(plan, ledger, RATES).pairs
    assert pairs == [(subject, 0) for subject in TEST]
    empty = quality.collect(plan, Ledger(tmp_path / "new"), RATES)
    assert quality.table(empty) == "No subject is complete yet."


def test_truncation_is_a_ratio_of_gains(tmp_path: Path):
    assert truncation.gain_ratio(1.0, 0.6, 0.2) == pytest.approx(0.5)
    plan, ledger = Plan(10, 1), Ledger(tmp_path)
    finish(ledger, plan.truncation(RATES), lambda c: {True: 1.0}.get(c["method"] == "base", 0.2))
    found = truncation.collect(plan, ledger, RATES)
    assert truncation.table(found).count("1.000 ± 0.000") == 6


def test_styles_compares_all_pairs_of_runs(tmp_path: Path):
    plan, ledger = Plan(10, 1), Ledger(tmp_path)
    finish(ledger, plan.styles(RATES))
    lines = styles.table(styles.collect(plan, ledger, RATES)).splitlines()[2:]
    assert len(lines) == len(STYLE_SETS) + 2
    assert lines[-2].startswith("| all pairs within styles | 4 | ")
    assert lines[-1].startswith("| all pairs between styles | 24 | ")
