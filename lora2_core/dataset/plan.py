"""What becomes of every picture of a folder, settled from the headers before anything is
decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import gcd

from ..checks import check_range, check_text
from ..paths import readable
from .buckets import Size, bucket_for, enlargement
from .folder import Listing, Picture
from .reading import Seen, Unusable, look, look_at_mask

LARGEST_ENLARGEMENT = 2.0
MOST_ENTRIES = 100_000


@dataclass(frozen=True)
class DatasetSettings:
    """How a folder becomes entries, that is pairs of a picture and a caption.

    caption: of pictures without a .txt or .caption beside them; where it is empty too, those in a
        folder called N_name have the name.
    resolution: the area of every picture is about its square.
    buckets: sizes near the picture's own shape; else a square from the centre.
    flip: each picture also mirrored.
    crops: random crops of each picture besides the centre.
    shuffle_tags: variants of each caption with its tags in another order.
    caption_dropout: share of all entries that have an empty caption.
    """

    caption: str = ""
    resolution: int = 1024
    buckets: bool = True
    flip: bool = False
    crops: int = 0
    shuffle_tags: int = 0
    caption_dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_text("caption", self.caption)
        check_range("resolution", self.resolution, 16, 8192, integer=True)
        check_range("crops", self.crops, 0, 100, integer=True)
        check_range("shuffle_tags", self.shuffle_tags, 0, 100, integer=True)
        check_range("caption_dropout", self.caption_dropout, 0, 0.5)
        check_range("seed", self.seed, 0, 2**64 - 1, integer=True)

    @property
    def variants(self) -> int:
        """Entries of a picture that is repeated once."""
        return max((1 + self.crops) * (1 + self.flip), 1 + self.shuffle_tags)

    def caption_of(self, picture: Picture) -> str:
        """Returns its own, else the one for all, else what its folder says."""
        if picture.caption is not None:
            return picture.caption
        return self.caption.strip() or picture.folder_caption


@dataclass(frozen=True)
class Planned:
    """A picture, what its header says, and the size it is brought to."""

    picture: Picture
    seen: Seen
    bucket: Size


def plan(listing: Listing, settings: DatasetSettings, step: int) -> list[Planned]:
    """Reads the headers; pictures that can't be used move to listing.skipped. ValueError when a
    picture has no caption, or a mask of another shape.
    """
    planned, wordless = [], []
    for picture in listing.pictures:
        try:
            seen = look(picture.path)
            size = seen.width, seen.height
            bucket = bucket_for(size, settings.resolution, step, square=not settings.buckets)
            if enlargement(size, bucket) > LARGEST_ENLARGEMENT:
                wide, high = bucket
                raise Unusable(f"{size[0]}x{size[1]} is less than half of {wide}x{high}")
            if picture.mask is not None:
                check_mask(picture, seen.full, look_at_mask(picture.mask))
        except Unusable as reason:
            listing.skipped[picture.name] = str(reason)
            continue
        if picture.caption is None and not settings.caption_of(picture):
            wordless.append(picture)
        planned.append(Planned(picture, seen, bucket))
    if wordless:
        raise ValueError(no_caption(wordless))
    return planned


def no_caption(pictures: list[Picture]) -> str:
    """Returns what to do about pictures without a caption."""
    name, file = pictures[0].name, f"{readable(pictures[0].path.stem)}.txt"
    if len(pictures) == 1:
        return (
            f"There is no caption for {name}: put {file} beside it (an empty one for no words), or "
            "fill in caption."
        )
    return (
        f"There is no caption for {name} and {len(pictures) - 1} more: put {file} beside it and so "
        "on (empty ones for no words), or fill in caption."
    )


def check_mask(picture: Picture, size: Size, mask: Size) -> None:
    """Raises ValueError for a mask of another shape than its picture, beyond a pixel of
    rounding.
    """
    (width, height), (wide, high) = size, mask
    if abs(wide * height / high - width) > 1 and abs(high * width / wide - height) > 1:
        raise ValueError(
            f"{readable(picture.mask.name)} is {wide} x {high}, another shape than {picture.name} "
            f"of {width} x {height}: crop it as its picture was cropped."
        )


def check_count(planned: list[Planned], settings: DatasetSettings, listing: Listing) -> int:
    """Returns the common divisor of all repeats, of which only the ratio counts; ValueError for
    none or too many entries.
    """
    if not planned:
        raise ValueError(nothing(listing))
    common = reduce(gcd, (p.picture.repeats for p in planned))
    entries = settings.variants * sum(p.picture.repeats // common for p in planned)
    if entries > MOST_ENTRIES:
        raise ValueError(
            f"The folder makes {entries} entries: lower its repeats, crops or shuffle_tags to stay "
            f"below {MOST_ENTRIES}."
        )
    return common


def nothing(listing: Listing) -> str:
    """Returns why there is no picture at all."""
    for name, reason in listing.skipped.items():
        others = len(listing.skipped) - 1
        more = f", and {others} more" if others else ""
        return f"No picture can be used: {name} ({reason}){more}; replace them."
    return "The folder holds no pictures: put png, jpg, webp, avif, bmp, tiff or gif files into it."
