"""One folder at several resolutions: which picture is used at which, and what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from .buckets import enlargement
from .folder import Listing
from .plan import LARGEST_ENLARGEMENT, DatasetSettings, Planned, plan

# by how much rounding the sides of its bucket to 64 pixels enlarges a picture of 512 that is
# otherwise large enough: half a step of 512
ROUNDED = 1 + 32 / 512


def plan_scales(
    listing: Listing, settings: DatasetSettings, step_of: Callable[[int], int]
) -> list[Planned]:
    """Returns a plan for each picture at each resolution that it is large enough for, in order of
    the pictures. Pictures that are used at none are added to `listing.skipped`. Raises ValueError
    as `plan` does, and where step_of does.

    step_of: gives the pixels that the sides are multiples of at a resolution.
    """
    steps = {resolution: step_for_one(resolution, settings, step_of)
             for resolution in settings.resolutions}  # fmt: skip
    skipped, found = dict(listing.skipped), {}
    for resolution, step in steps.items():
        at = plan(listing, replace(settings, resolution=resolution), step)
        found[resolution] = {item.picture.path: item for item in at}
        if resolution == settings.resolution:
            skipped = dict(listing.skipped)
    planned = []
    for picture in listing.pictures:
        several = [at[picture.path] for at in found.values() if picture.path in at]
        kept = large_enough(several, settings.resolution)
        planned += kept
        if kept:
            skipped.pop(picture.name, None)
    listing.skipped.clear()
    listing.skipped.update(skipped)
    return planned


def step_for_one(resolution: int, settings: DatasetSettings, step_of: Callable[[int], int]) -> int:
    """Returns the step of a resolution. Raises ValueError that says which input is meant."""
    try:
        return step_of(resolution)
    except ValueError as error:
        if resolution == settings.resolution:
            raise
        raise ValueError(f"Of more_resolutions: {error}") from error


def large_enough(several: Sequence[Planned], resolution: int) -> list[Planned]:
    """Returns the plans of one picture, of different sizes, that are used: the one at `resolution`,
    and others that enlarge it no more than that one, or not at all.
    """
    factors = [enlargement((p.seen.width, p.seen.height), p.bucket) for p in several]
    own = [f for f, p in zip(factors, several, strict=True) if p.resolution == resolution]
    most = max([ROUNDED, *(own or [LARGEST_ENLARGEMENT])])
    kept: dict[tuple[int, int], Planned] = {}
    for factor, item in zip(factors, several, strict=True):
        if factor <= most:
            kept.setdefault(item.bucket, item)
    return list(kept.values())


def first_of_each(planned: Sequence[Planned]) -> list[Planned]:
    """Returns one plan for each picture."""
    firsts: dict[str, Planned] = {}
    for item in planned:
        firsts.setdefault(item.picture.name, item)
    return list(firsts.values())


def cost(settings: DatasetSettings, used: Sequence[Planned]) -> list[str]:
    """Returns lines on how many pictures are used at each resolution, and on what that costs; none
    where there is one resolution.
    """
    if len(settings.resolutions) == 1:
        return []
    pictures = Counter(item.resolution for item in used)
    latents: Counter[int] = Counter()
    for item in used:
        latents[item.resolution] += item.picture.repeats
    first = settings.resolution
    time = {r: (r / first) ** 2 for r in settings.resolutions}
    counts = ", ".join(f"{r} ({pictures[r]})" for r in settings.resolutions)
    lines = [f"resolutions: {counts}"]
    if latents[first]:
        more = (latents.total() - latents[first]) / latents[first]
        lines.append(f"more latents than with {first} alone: {more:+.0%}")
    mean = sum(time[r] * count for r, count in latents.items()) / latents.total()
    each = ", ".join(f"{r} {share:.0%}" for r, share in time.items())
    lines.append(f"time of a step by its pixels: {each}; on average {mean:.0%}")
    return lines
