"""What became of a folder, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .buckets import enlargement
from .folder import Listing
from .plan import DatasetSettings, Planned

MOST_NAMES = 20


def report(
    name: str,
    settings: DatasetSettings,
    used: Sequence[Planned],
    listing: Listing,
    entries: int,
    wordless: int,
) -> str:
    """Counts, sizes, captions, and the skipped files with their reasons."""
    lines = [f"{name}: pictures {len(used)}, entries {entries + wordless}"]
    sizes = Counter(p.bucket for p in used)
    lines.append("sizes: " + ", ".join(f"{w}x{h} ({n})" for (w, h), n in sorted(sizes.items())))
    lines.append("captions: " + captions(settings, used))
    repeats = Counter(p.picture.repeats for p in used)
    if len(repeats) > 1:
        lines.append("repeats: " + ", ".join(f"{r} ({n})" for r, n in sorted(repeats.items())))
    if wordless:
        lines.append(f"without caption: {wordless} entries ({wordless / (entries + wordless):.1%})")
    if transparent := sum(p.seen.transparent for p in used):
        lines.append(f"transparency put on white: {transparent}")
    enlarged = sum(enlargement((p.seen.width, p.seen.height), p.bucket) > 1 for p in used)
    if enlarged:
        lines.append(f"enlarged: {enlarged}")
    if listing.skipped:
        lines.append(f"skipped: {len(listing.skipped)}")
        lines += [f"  {file}: {why}" for file, why in list(listing.skipped.items())[:MOST_NAMES]]
        if (more := len(listing.skipped) - MOST_NAMES) > 0:
            lines.append(f"  and {more} more")
    if listing.others:
        lines.append(f"other files: {listing.others}")
    return "\n".join(lines)


def captions(settings: DatasetSettings, used: Sequence[Planned]) -> str:
    """Where the captions come from."""
    own = sum(bool(p.picture.caption) for p in used)
    empty = sum(p.picture.caption == "" for p in used)
    parts = [f"{own} from .txt files"]
    if shared := len(used) - own - empty:
        parts.append(f"{shared} without one: {settings.caption.strip()!r}")
    if empty:
        parts.append(f"{empty} empty .txt files")
    return ", ".join(parts)
