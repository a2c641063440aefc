"""Describes an adapter as text: a table of its layers, its metadata, and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from ..adapter.lora import RankedLora
from ..adapter.names import split_key
from ..adapter.origin import plain
from ..adapter.rank_map import Cell, rank_map
from ..files.metadata import run_entries
from ..files.own_metadata import valid_rows
from ..files.tensor_file import Header, read_some, shown
from ..files.trigger_words import trigger_words
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .info_facts import made_of, other_table

LONGEST = 2000  # characters of one metadata value that are shown
LONGEST_JSON = 1_000_000  # characters of JSON that are parsed: more would take seconds
MOST_NOTES = 12  # changes of one kind that the summary lists
TAGS = 12  # most frequent tags that the summary lists
FIRST = (  # metadata keys that are shown first, in this order; the others follow by name
    "modelspec.title", "ss_output_name", "modelspec.author", "modelspec.description",
    "modelspec.trigger_phrase", "modelspec.architecture", "ss_base_model_version",
    "ss_sd_model_name", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_steps",
    "ss_max_train_steps", "ss_num_epochs", "ss_epoch", "ss_learning_rate", "ss_unet_lr",
    "ss_text_encoder_lr", "ss_optimizer", "ss_lr_scheduler", "ss_lr_warmup_steps",
    "ss_total_batch_size", "ss_resolution", "ss_num_train_images", "ss_num_reg_images",
    "ss_mixed_precision", "ss_noise_offset", "ss_min_snr_gamma", "ss_clip_skip", "ss_seed",
    "ss_training_started_at", "ss_training_finished_at",
)  # fmt: skip
# layer -> (alpha, rank), as a file has them
Scales = Mapping[str, tuple[float, int]]


def cells_of(lora: RankedLora) -> list[tuple[Cell, float]]:
    """Returns pairs of a layer's cell in the rank map and its share of the total energy. The energy
    of a layer is the squared norm of its update.
    """
    cells = rank_map(lora).cells
    total = sum(cell.norm**2 for cell in cells) or 1.0
    return [(cell, cell.norm**2 / total) for cell in cells]


def file_scales(
    path: str | Path, bases: Mapping[str, str] | None = None
) -> dict[str, tuple[float, int]]:
    """Reads alpha and rank of each layer from a file that `load` has accepted. Returns layer ->
    (alpha, rank). Where the file has no alpha, alpha is the rank.

    bases: layer -> its name in the file, from the loaded adapter. None: the names come from
        lora2.layers in the file's metadata.
    """
    ranks, alphas = {}, {}
    header, read = read_some(Path(path), alpha_keys)
    if bases is None:
        named = {row.base: row.name for row in valid_rows(header.metadata)}
    else:
        named = {base: name for name, base in bases.items()}
    for key, entry in header.entries.items():
        base, role = split_key(key) or (key, "")
        name = named.get(base, base)
        if role == "alpha":
            alphas[name] = float(read[key])
        elif role == "down":
            ranks[name] = entry.shape[0]
    return {name: (alphas.get(name, float(rank)), rank) for name, rank in ranks.items()}


def alpha_keys(header: Header) -> list[str]:
    """Returns the keys of all alpha tensors of a file."""
    return [key for key in header.entries if (split_key(key) or ("", ""))[1] == "alpha"]


def layer_table(lora: RankedLora, scales: Scales | None = None) -> str:
    """Returns a table in Markdown. Every layer has a row with its rank, alpha / r, norm
    |(alpha / r) B A|, bytes in fp16, share of the energy, and the highest rank that its shape
    allows. The last row has the totals. Changes of other kinds have a table of their own below.

    scales: alpha and rank in the adapter's file. None: the adapter is in memory, where alpha / r is
        already part of the weights, so alpha is the rank.
    """
    lines = [
        "| layer | rank | alpha / r | norm | bytes | energy | max rank |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    total = 0.0
    for cell, share in cells_of(lora):
        total += cell.norm**2
        alpha, rank = (scales or {}).get(cell.name, (cell.rank, cell.rank))
        numbers = f"{cell.rank} | {alpha:g} / {rank} | {cell.norm:.4g} | {cell.bytes} | {share:.2%}"
        name = " ".join(cell.name.replace("|", " ").split())
        lines.append(f"| {name} | {numbers} | {cell.max_rank} |")
    size = lora.parameters * BYTES_PER_PARAMETER
    mean = f"all {len(lora.layers)}, mean rank {lora.mean_rank:.2f}"
    lines.append(f"| {mean} | {sum(lora.ranks.values())} | | {total**0.5:.4g} | {size} | 100% | |")
    return "\n".join(lines) + other_table(lora)


def as_saved(lora: RankedLora) -> dict[str, str]:
    """Returns the metadata that a file of this adapter would have, without title and date."""
    entries = run_entries(lora, "")
    if settings := lora.origin.run.settings:
        entries["lora2.settings"] = json.dumps(settings)
    return {k: v for k, v in entries.items() if v and k != "modelspec.date"}


def readable(key: str, value: str) -> str:
    """Returns a metadata value as people can read it. JSON is on several lines, a time in seconds
    has its date added, and a long value is cut and has its length added.
    """
    shown = value
    if value[:1] in "[{" and len(value) <= LONGEST_JSON:
        with suppress(ValueError, RecursionError):
            shown = json.dumps(json.loads(value), indent=1, ensure_ascii=False)
    if key.endswith(("_started_at", "_finished_at")):
        with suppress(ValueError, OverflowError, OSError):
            moment = datetime.fromtimestamp(float(value), timezone.utc)
            shown = f"{value} ({moment:%Y-%m-%d %H:%M} UTC)"
    if len(shown) > LONGEST:
        return f"{shown[:LONGEST]} \u2026 ({len(value)} characters)"
    return shown


def metadata_text(metadata: Mapping[str, str]) -> str:
    """Returns the metadata as lines "key: value". The keys in FIRST, which people look for most,
    come first.
    """
    first = [key for key in FIRST if key in metadata]
    rest = sorted(set(metadata) - set(first))
    if not metadata:
        return "This file has no metadata."
    return "\n".join(f"{key}: {readable(key, str(metadata[key]))}" for key in [*first, *rest])


def tags(metadata: Mapping[str, str]) -> list[str]:
    """Returns the most frequent tags of the training captions, from the metadata ss_tag_frequency.
    Returns [] if that is missing or can't be read.
    """
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for folder in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in folder.items()})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return []
    return [tag for tag, _ in counts.most_common(TAGS)]


def spread(ranks: Sequence[int]) -> str:
    """Returns the range and the mean of ranks as text. Layers of rank 0 count."""
    if not ranks:
        return "no low-rank pairs"
    if len(set(ranks)) == 1:
        return f"rank {ranks[0]} everywhere"
    return f"ranks {min(ranks)} to {max(ranks)}, mean {sum(ranks) / len(ranks):.1f}"


def summary(
    lora: RankedLora,
    name: str,
    metadata: Mapping[str, str] | None = None,
    file_bytes: int | None = None,
) -> str:
    """Returns some lines about an adapter: size, ranks, base model, training, names, what can be
    cut, trigger words, frequent tags, and the layer with the most energy.

    metadata: None: the metadata of the file that the adapter was loaded from. file_bytes: size of
    that file; None for an adapter in memory.
    """
    metadata = lora.origin.file.metadata if metadata is None else metadata
    ranks = list(lora.ranks.values())
    size = f"{lora.megabytes():.2f} MB in fp16"
    if file_bytes is not None:
        size = f"{file_bytes / MEGABYTE:.2f} MB ({size})"
    lines = [f"{name}: {size}, {len(ranks)} layers", spread(ranks)]
    lines += [f"beside the pairs: {kinds_of(lora)}"] if lora.others else []
    known = {
        "base": metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture"),
        "steps": metadata.get("ss_steps"),
        "learning rate": metadata.get("ss_learning_rate"),
        # of torch.optim.adamw.AdamW(weight_decay=0.01) only AdamW is shown
        "optimizer": metadata.get("ss_optimizer", "").partition("(")[0].rpartition(".")[2],
    }
    facts = [f"{what} {str(value)[:80]}" for what, value in known.items() if value]
    lines += [", ".join(facts)] if facts else []
    lines += made_of(lora)
    if words := trigger_words(metadata):
        lines.append(f"trigger: {', '.join(words)}"[:400])
    if frequent := tags(metadata):
        lines.append(f"frequent tags: {', '.join(frequent)}"[:400])
    if cells := cells_of(lora):
        cell, share = max(cells, key=lambda pair: pair[1])
        lines.append(f"most energy: {cell.name} ({share:.1%})")
    return "\n".join(lines + notes_of(lora))


def kinds_of(lora: RankedLora) -> str:
    """Returns how many changes of which other kind an adapter has, and their size: no cut touches
    them.
    """
    counts = Counter(change.kind for change in lora.others.values())
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return f"{listed} ({lora.other_bytes / MEGABYTE:.2f} MB)"


def notes_of(lora: RankedLora) -> list[str]:
    """Returns lines that say what another program changed in the adapter's file, and which entries
    of the file are not used because of that.
    """
    file = lora.origin.file
    lines = [plain(note) for note in file.notes]
    for what, entries in (("In its metadata", file.changes), ("Left out", file.left_out)):
        lines += [f"{what}: {shown(entry)}." for entry in entries[:MOST_NOTES]]
        if len(entries) > MOST_NOTES:
            lines.append(f"{what}: {len(entries) - MOST_NOTES} more.")
    return lines
