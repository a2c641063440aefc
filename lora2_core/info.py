"""What an adapter says of itself, as text: its layers in a table, its metadata, and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from .lora import RankedLora
from .rank_map import Cell, rank_map
from .settings import BYTES_PER_PARAMETER, MEGABYTE

LONGEST = 2000  # characters of one metadata value
TAGS = 12  # most frequent ones in the summary
FIRST = (  # of the metadata, in this order; the rest follows by name
    "modelspec.title", "ss_output_name", "modelspec.author", "modelspec.description",
    "modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "ss_network_module",
    "ss_network_dim", "ss_network_alpha", "ss_steps", "ss_max_train_steps", "ss_num_epochs",
    "ss_learning_rate", "ss_unet_lr", "ss_text_encoder_lr", "ss_optimizer", "ss_lr_scheduler",
    "ss_total_batch_size", "ss_resolution", "ss_num_train_images", "ss_seed",
)  # fmt: skip


def cells_of(lora: RankedLora) -> list[tuple[Cell, float]]:
    """Every layer with its share of the update's energy, the squared norm."""
    cells = rank_map(lora).cells
    whole = sum(cell.norm**2 for cell in cells) or 1.0
    return [(cell, cell.norm**2 / whole) for cell in cells]


def layer_table(lora: RankedLora) -> str:
    """Markdown: rank, norm |(alpha / rank) B A|, bytes in fp16 and share of the energy of every
    layer, and the totals. The scale is folded in: alpha counts as the rank.
    """
    lines = ["| layer | rank | of | norm | bytes | energy |", "|---|---|---|---|---|---|"]
    total = 0.0
    for cell, share in cells_of(lora):
        total += cell.norm**2
        numbers = f"{cell.rank} | {cell.max_rank} | {cell.norm:.4g} | {cell.bytes} | {share:.2%}"
        lines.append(f"| {cell.name.replace('|', ' ')} | {numbers} |")
    size = lora.parameters * BYTES_PER_PARAMETER
    lines.append(f"| all, mean rank {lora.mean_rank:.2f} | | | {total**0.5:.4g} | {size} | 100% |")
    return "\n".join(lines)


def readable(value: str) -> str:
    """A metadata value: JSON on several lines, long ones cut with their length told."""
    if value[:1] in "[{":
        with suppress(ValueError, RecursionError):
            value = json.dumps(json.loads(value), indent=1, ensure_ascii=False)
    if len(value) > LONGEST:
        return f"{value[:LONGEST]} … ({len(value)} characters)"
    return value


def metadata_text(metadata: Mapping[str, str]) -> str:
    """ "key: value" lines, what people look for first."""
    first = [key for key in FIRST if key in metadata]
    rest = sorted(set(metadata) - set(first))
    if not metadata:
        return "This file has no metadata."
    return "\n".join(f"{key}: {readable(str(metadata[key]))}" for key in [*first, *rest])


def tags(metadata: Mapping[str, str]) -> list[str]:
    """The most frequent tags of the training captions, from ss_tag_frequency; [] where there are
    none or they cannot be read.
    """
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for folder in folders.values():
            counts.update({str(tag): int(count) for tag, count in folder.items()})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return []
    return [tag for tag, _ in counts.most_common(TAGS)]


def summary(lora: RankedLora, name: str) -> str:
    """A few lines: size, ranks, base model, run, where the energy is, and frequent tags."""
    metadata, ranks = lora.info.get("metadata", {}), list(lora.ranks.values())
    megabytes = lora.parameters * BYTES_PER_PARAMETER / MEGABYTE
    lines = [
        f"{name}: {megabytes:.2f} MB in fp16, {len(ranks)} layers",
        f"ranks {min(ranks)} to {max(ranks)}, mean {lora.mean_rank:.1f}",
    ]
    known = {
        "base": metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture"),
        "steps": metadata.get("ss_steps"),
        "learning rate": metadata.get("ss_learning_rate"),
        "optimizer": metadata.get("ss_optimizer"),
    }
    facts = [f"{what} {str(value)[:80]}" for what, value in known.items() if value]
    lines += [", ".join(facts)] if facts else []
    cell, share = max(cells_of(lora), key=lambda pair: pair[1])
    lines.append(f"most energy: {cell.name} ({share:.1%})")
    if found := tags(metadata):
        lines.append(f"frequent tags: {', '.join(found)}"[:400])
    return "\n".join(lines)
