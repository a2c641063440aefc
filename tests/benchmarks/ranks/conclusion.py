"""What the tables of docs/results.md come to: sentences that are computed from the same rows."""

from __future__ import annotations

from collections import defaultdict

from tests.benchmarks.ranks import found as random_problems
from tests.benchmarks.ranks import planted, styles, truncation
from tests.benchmarks.ranks.quality import NAMES, Quality, markdown
from tests.benchmarks.ranks.statistics import (
    Estimate,
    Values,
    difference,
    envelope,
    geometric_mean,
    over_subjects,
)

# A run went wrong where its loss is so many times the lowest of its subject. All other runs of
# plain LoRA and of adaptive stay below 1.25.
WRONG = 1.5
LEVEL = 0.005  # ratios that differ from 1 by less read as level


def percent(share: float) -> str:
    """Returns 4 % for 0.04."""
    return f"{100 * share:.0f} %"


def compared(found: Estimate) -> str:
    """Returns a ratio in words, from its logarithm: `4 % lower`. A star says that it is within
    chance.
    """
    ratio, low, high = found.exp()
    star = "" if high < 1 or low > 1 else " \\*"
    if abs(ratio - 1) < LEVEL:
        return f"level{star}"
    return f"{percent(abs(ratio - 1))} {'lower' if ratio < 1 else 'higher'}{star}"


def about_planted(results: dict) -> str:
    """Returns how many runs learned every planted rank, and how far their error is from the
    best possible.
    """
    rows = results["adaptive"]
    exact = sum(row["ranks"] == list(planted.RANKS) for row in rows)
    worst = max(row["error"] / row["oracle"] for row in rows)
    most = max(row["inside"] for row in results["paper"])
    return (
        f"**Planted ranks.** With default settings `adaptive` learns all ten ranks exactly in "
        f"{exact} of {len(rows)} runs. Its held-out error is at most {worst:.3f} times that of a "
        f"LoRA that was given the ranks. `paper` mode finds {most} of {len(planted.RANKS)} ranks "
        "at most, at any λ tried. (A)"
    )


def wrong_runs(values: Values) -> int:
    """Returns how many runs ended far above the best one of their subject."""
    found = defaultdict(list)
    for (subject, _), value in values.items():
        found[subject].append(value)
    return sum(value > WRONG * min(of_one) for of_one in found.values() for value in of_one)


def best_plain(quality: Quality) -> tuple[str, float]:
    """Returns the key of the plain LoRA with the lowest loss on unseen backgrounds."""
    keys = [key for key in quality.sizes if key[0] == "fixed"]
    return min(keys, key=lambda key: over_subjects(quality.log(key, "background")).mean)


def quality_table(quality: Quality) -> str:
    """Returns the loss of adaptive on unseen backgrounds beside that of others, in words."""
    controls, best = quality.controls("background"), best_plain(quality)
    sizes = [size for method, size in quality.sizes if method == "adaptive"]
    ours = [quality.point(("adaptive", size), "background") for size in sizes]
    rows = {
        "than plain LoRA of that rank": [
            compared(difference(o.log, quality.log(("fixed", size), "background")))
            for o, size in zip(ours, sizes, strict=True)
        ],
        "than the best of all controls of that size": [
            compared(difference(o.log, envelope(controls, o.mb)[1])) for o in ours
        ],
        f"than plain LoRA of rank {best[1]:g}, the lowest": [
            compared(difference(o.log, quality.log(best, "background"))) for o in ours
        ],
        "share of its bytes": [
            percent(o / geometric_mean(quality.log(best, "mb")))
            for o in (geometric_mean(quality.log(("adaptive", size), "mb")) for size in sizes)
        ],
    }
    head = ["loss of `adaptive`, by mean rank", *(f"{size:g}" for size in sizes)]
    return markdown(head, [[name, *cells] for name, cells in rows.items()])


def about_quality(quality: Quality) -> list[str]:
    """Returns what experiment B says beside its table: of small sizes, runs that went wrong, and
    an unseen style.
    """
    controls, better = quality.controls("background"), []
    for method, size in quality.sizes:
        if method == "adaptive":
            ours = quality.point((method, size), "background")
            if difference(ours.log, envelope(controls, ours.mb)[1]).high < 0:
                better.append(f"{size:g}")
    found = [
        "**Pictures, at equal bytes.** On unseen backgrounds `adaptive` has a lower loss than "
        f"every control, beyond chance, at mean rank {', '.join(better) or 'none'}: the table "
        "below. (B)"
    ]
    for method, size in quality.sizes:
        values = quality.values((method, size), "background")
        if method == "fixed" and (count := wrong_runs(values)):
            found.append(
                f"**At rank {size:g}, {count} of plain LoRA's {len(values)} runs went wrong**: "
                f"their loss is more than {WRONG:g} times the lowest of their subject. (B)"
            )
    style = {key: geometric_mean(quality.log(key, "style")) for key in quality.sizes}
    lowest = sorted(style, key=style.get)[:2]
    named = " and ".join(f"{NAMES[k[0]]} at rank {k[1]:g} ({style[k]:.4f})" for k in lowest)
    found.append(
        f"**A style that no training picture has**: the lowest losses are those of {named}. (B)"
    )
    return found


def about_cuts(found: dict[float, dict]) -> str:
    """Returns the share of the gain that a cut adapter keeps, at each share of its bytes."""
    kept = [
        f"{percent(over_subjects(truncation.ratios(rows, 'background')).mean)} at {percent(share)}"
        for share, rows in found.items()
        if rows
    ]
    return (
        "**One file, every size.** Of the gain of an adapter that was trained at the smaller size, "
        f"on unseen backgrounds, one that is cut to it keeps {', '.join(kept)} of its bytes. (C)"
    )


def about_compress(results: dict) -> str:
    """Returns in how many cases LoRA2 Compress leaves the least error."""
    errors = defaultdict(dict)
    for row in results["errors"]:
        errors[row["file"], row["share"]][row["method"]] = row["error"]
    wins = sum(min(by, key=by.get) == "compress" for by in errors.values())
    files = len({file for file, _ in errors})
    return (
        "***LoRA² Compress*** leaves less error than sv_fro, sv_ratio and one rank for all layers, "
        f"at equal bytes, in {wins} of {len(errors)} cases ({files} LoRAs, three sizes each). (D)"
    )


def about_styles(found: dict) -> str | None:
    """Returns how alike the rank maps of one style and of different styles are; None where one of
    both is missing.
    """
    means = {
        kind: sum(spearman for _, _, spearman in pairs) / len(pairs)
        for kind, pairs in styles.correlations(found).items()
        if pairs
    }
    if len(means) < 2:
        return None
    return (
        "**Rank maps** hardly tell styles apart: those of two runs on one style correlate with "
        f"{means['within']:.2f} (Spearman), those of different styles with "
        f"{means['between']:.2f}. (E)"
    )


def text(
    modules: dict[str, dict], quality: Quality, cuts: dict, maps: dict, everywhere: list[str | None]
) -> str:
    """Returns a list with a sentence or more for each experiment that has results, and the table
    of B; empty where none has.

    modules: the results of experiments A, D and G by letter; quality: B; cuts: C; maps: E;
    everywhere: the sentences of H and I, None where there is none.
    """
    found = [sentence for sentence in everywhere if sentence]
    if "A" in modules:
        found.append(about_planted(modules["A"]))
    if "G" in modules:
        found.append(random_problems.about(modules["G"]))
    if quality.pairs:
        found += about_quality(quality)
    if any(cuts.values()):
        found.append(about_cuts(cuts))
    if "D" in modules:
        found.append(about_compress(modules["D"]))
    if (sentence := about_styles(maps)) is not None:
        found.append(sentence)
    lines = "\n".join(f"- {sentence}" for sentence in found)
    if not quality.pairs:
        return lines
    return f"{lines}\n\n{quality_table(quality)}\n\n\\* within chance: the 95 % interval holds 0 %."
