"""The report on a folder of pictures, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..paths import readable
from .beside import CAPTIONS, MASK
from .buckets import enlargement
from .folder import Listing
from .plan import INPAINT, DatasetSettings, Planned
from .reading import LARGE
from .scales import cost, first_of_each

# files that are listed with their reasons; further ones are counted
MOST_NAMES = 20
# names in one line
NAMES_IN_LINE = 3


def report(
    name: str,
    settings: DatasetSettings,
    used: Sequence[Planned],
    listing: Listing,
    entries: int,
    wordless: int,
    references: str = "",
) -> str:
    """Returns lines with the counts, sizes and captions, and the skipped files with their reasons.

    used: the pictures that are used, at each resolution. entries, wordless: numbers of entries with
    and without a caption. references: how the model gets the sources.
    """
    scaled_to, used = used, first_of_each(used)
    lines = [f"{readable(name)}: pictures {len(used)}, entries {entries + wordless}"]
    sizes = Counter(p.bucket for p in scaled_to)
    lines.append("sizes: " + ", ".join(f"{w}x{h} ({n})" for (w, h), n in sorted(sizes.items())))
    lines += cost(settings, scaled_to)
    lines.append("captions: " + captions(settings, used))
    repeats = Counter(p.picture.repeats for p in used)
    if len(repeats) > 1:
        lines.append("repeats: " + ", ".join(f"{r} ({n})" for r, n in sorted(repeats.items())))
    if wordless:
        lines.append(f"without caption: {wordless} entries ({wordless / (entries + wordless):.1%})")
    if sources := mask_sources(used):
        lines.append(f"masks: {sources}")
    if number := sum(len(p.sources) for p in used):
        lines.append(f"sources: {number}, as {references}")
    elif references == INPAINT:
        lines.append("to fill in: what is white in the masks")
    if transparent := sum(p.seen.transparent for p in used):
        lines.append(f"transparency put on white: {transparent}")
    enlarged = sum(enlargement((p.seen.width, p.seen.height), p.bucket) > 1 for p in scaled_to)
    if enlarged:
        lines.append(f"enlarged: {enlarged}")
    for names, what in (
        ([p.picture.name for p in used if p.seen.animated], "several frames or pages, first used"),
        ([p.picture.name for p in used if scaled(p)], f"above {LARGE // 10**6} megapixels, scaled"),
        (listing.cut, "cut off at the end, used"),
    ):
        if names:
            more = ", ..." if len(names) > NAMES_IN_LINE else ""
            lines.append(f"{what}: {len(names)} ({', '.join(names[:NAMES_IN_LINE])}{more})")
    for what, reasons in (("skipped", listing.skipped), ("not used", listing.unused)):
        if reasons:
            lines.append(f"{what}: {len(reasons)}")
            lines += [f"  {file}: {why}" for file, why in list(reasons.items())[:MOST_NAMES]]
        if (unnamed := len(reasons) - MOST_NAMES) > 0:
            lines.append(f"  and {unnamed} more")
    if listing.others:
        kinds = ", ".join(sorted(listing.others))
        lines.append(f"other files: {listing.others.total()} ({kinds})")
    return "\n".join(lines)


def scaled(planned: Planned) -> bool:
    """Returns whether a picture is scaled down while it is decoded."""
    return planned.seen.full != (planned.seen.width, planned.seen.height)


def captions(settings: DatasetSettings, used: Sequence[Planned]) -> str:
    """Returns a line on where the captions come from."""
    files = [p.picture.caption_file for p in used if p.picture.caption]
    own = Counter(file.suffix.lower() for file in files if file is not None)
    empty = sum(p.picture.caption == "" for p in used)
    parts = [f"{own[kind]} from {kind} files" for kind in CAPTIONS if own[kind] or kind == ".txt"]
    if shared := sum(p.picture.caption is None for p in used):
        words = settings.caption.strip()
        parts.append(f"{shared} without one: {words!r}" if words else f"{shared} from folder names")
    if empty:
        parts.append(f"{empty} empty caption files")
    return ", ".join(parts)


def mask_sources(used: Sequence[Planned]) -> str:
    """Returns a line on where the masks come from; "" without masks."""
    files = sum(p.picture.mask is not None for p in used)
    opacity = sum(p.picture.mask is None and p.seen.transparent for p in used)
    if not files + opacity:
        return ""
    counts = {
        f"from {MASK} files": files,
        "from transparency": opacity,
        "without one": len(used) - files - opacity,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
