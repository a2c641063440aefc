"""Makes a data set for LoRA² Train from a folder of pictures. The node LoRA² Dataset calls
`make_dataset`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from torch import Tensor

from ...dataset.buckets import step_for
from ...dataset.cache import Cache
from ...dataset.captions import paired, variants, without_captions
from ...dataset.crops import crops_of
from ...dataset.cut import completed
from ...dataset.folder import check_folder, scan
from ...dataset.plan import DatasetSettings, Planned, check_count, nothing
from ...dataset.reading import Unusable, decode
from ...dataset.report import report
from ...dataset.scales import plan_scales
from ...dataset.sources import BESIDE
from ...paths import quoted
from .encoding import PICTURE, Encoder
from .picture_masks import MaskReader
from .references import Reference, References


@dataclass(frozen=True)
class Dataset:
    """Holds the entries of a data set in three lists of equal length, and the report about its
    folder. An entry is a pair of a picture and a caption.

    latents: a LATENT for each entry, with the name of its picture. positive: a CONDITIONING for
    each entry. masks: a mask for each entry, [1, height, width] in the size of its latent.
    """

    latents: list[dict]
    positive: list[list]
    masks: list[Tensor]
    report: str


def cache_folder() -> Path:
    """Returns the folder of cached latents, captions and masks. It is inside ComfyUI's user folder,
    in a part that its web server never serves.
    """
    return Path(folder_paths.get_system_user_directory("lora2")) / "cache"


def source_folder(settings: DatasetSettings) -> Path | None:
    """Returns the folder of the sources, None where they lie beside the pictures. Raises ValueError
    when there is none.
    """
    if settings.source_folder == BESIDE:
        return None
    return check_folder(folder_paths.get_input_directory(), settings.source_folder)


def encode_picture(
    planned: Planned,
    settings: DatasetSettings,
    encoder: Encoder,
    reader: MaskReader,
    references: References,
) -> tuple[list[tuple[Tensor, Tensor, Reference]], bool]:
    """Returns a latent, a mask and a reference for each crop of a picture, and whether the end of
    the picture's file is missing. The picture is decoded only if one of its latents is not cached.

    A crop whose mask is black everywhere is left out. Raises Unusable when no crop remains, or when
    the file can't be used.
    """
    path, seen = planned.picture.path, planned.seen
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unusable("unreadable") from error
    digest = hashlib.sha256(data).hexdigest()
    size = seen.width, seen.height
    crops = crops_of(
        size,
        planned.bucket,
        extra=settings.crops,
        flip=settings.flip,
        seed=f"{settings.seed} {digest}",
    )
    latents, picture = [], None
    for crop in crops:
        latent = encoder.known_latent(digest, crop, planned.bucket)
        if latent is None:
            if picture is None:
                picture = decode(data)
            if picture.shape[:2] != size[::-1]:
                raise Unusable("changed while it was read")
            try:
                latent = encoder.latent(picture, digest, crop, planned.bucket)
            except ValueError as error:
                raise ValueError(f"{planned.picture.name}: {error}") from error
        latents.append(latent)
    masks = reader.masks(planned, data, crops, tuple(latents[0].shape[-2:]))
    beside = references.of(planned, data, crops)
    kept = [crop for crop in zip(latents, masks, beside, strict=True) if crop[1].any()]
    if not kept:
        raise Unusable(
            "masked out: its mask is black, or the picture is transparent, in all of its crops"
        )
    return kept, completed(data)[1]


def make_dataset(
    name: str, clip, vae, settings: DatasetSettings, on_picture: Callable[[int, int], None]
) -> Dataset:
    """Encodes the pictures and captions of a folder and returns them as a data set. Raises
    ValueError for bad input before anything is encoded.

    name: path of the folder below ComfyUI's input folder.
    on_picture: called as on_picture(done, of) before each picture and caption. It may raise
        ComfyUI's interrupt; everything encoded by then stays in the cache.
    """
    for what, model in (("clip", clip), ("vae", vae)):
        if model is None:
            raise ValueError(f"{what} is empty: connect a loader whose file has a {what.upper()}.")
        if not hasattr(model, "patcher"):
            raise ValueError(
                f"{what} is {quoted(model)}: connect a loader that gives a {what.upper()}."
            )
    root = folder_paths.get_input_directory()
    ratio = vae.spacial_compression_encode()
    folder = check_folder(root, name)
    listing = scan(folder, source_folder(settings))

    def step_of(resolution: int) -> int:
        return step_for(resolution, ratio)

    planned = plan_scales(listing, settings, step_of)
    common = check_count(planned, settings, listing)
    cache = Cache(cache_folder())
    encoder, reader = Encoder(clip, vae, cache), MaskReader(cache)
    references = References(settings, encoder, reader, step_of)
    used, entries = [], []
    for done, item in enumerate(planned):
        on_picture(done, len(planned))
        try:
            crops, cut = encode_picture(item, settings, encoder, reader, references)
        except Unusable as reason:
            listing.skipped[item.picture.name] = str(reason)
            continue
        used.append(item)
        if cut and item.picture.name not in listing.cut:
            listing.cut.append(item.picture.name)
        captions = variants(
            settings.caption_of(item.picture),
            settings.shuffle_tags,
            f"{settings.seed} {item.picture.name}",
        )
        named = [(*crop, item.picture.name) for crop in crops]
        entries += paired(named, captions) * (item.picture.repeats // common)
    if not used:
        raise ValueError(nothing(listing))
    wordless = without_captions(entries, settings.caption_dropout, settings.seed)
    positive = []
    for (_, _, reference, _), caption in entries + wordless:
        on_picture(len(planned), len(planned))
        positive.append(references.conditioning(caption, reference))
    cache.trim()
    crops = [crop for crop, _ in entries + wordless]
    latents = [{"samples": latent, PICTURE: picture} for latent, _, _, picture in crops]
    masks = [mask for _, mask, _, _ in crops]
    facts = report(name, settings, used, listing, len(entries), len(wordless), references.kind)
    return Dataset(latents, positive, masks, f"{facts}\n{encoder.report()}{reader.report()}")
