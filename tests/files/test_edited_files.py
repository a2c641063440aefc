"""Our own files after other programs: an edit of the metadata is a warning, other tensors are read
as a plain LoRA, and damage is an error.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import lora2_core as lora2
from lora2_core.adapter.origin import Learned, Origin, RunFacts, SourceFile
from lora2_core.charts.info import file_scales, summary
from lora2_core.files.checksums import KEY as CHECKS
from lora2_core.files.provenance import EDITED_NOTE, LEFT_OUT_NOTE, REWRITTEN_NOTE
from lora2_core.files.seal import EMPTY, KEY, payload_of, sealed
from tests.reliability.adapters import flipped, same_updates, seen_flip
from tests.toys import SHAPES, foreign, metadata_of, random_lora

GOLDEN = Path(__file__).parents[1] / "golden" / "adapter-1.safetensors"
PATHS = {  # names of the file that don't follow from the module paths
    name.removeprefix("diffusion_model."): f"down_blocks.{i}.attentions.0.to_q"
    for i, name in enumerate(SHAPES)
}
Metadata = dict[str, str]


def lora() -> lora2.RankedLora:
    """An adapter with everything that a file can say of it, one layer without rank."""
    made = random_lora().rotated()
    names = list(SHAPES)
    made.layers[names[2]] = made.layers[names[2]].first(0)
    learned = Learned(
        ranks=dict(zip(names, (9, 12, 5, 3), strict=True)),
        nu=dict.fromkeys(names, 0.25),
        sensitivity=dict(zip(names, (1.0, 0.5, 0.25, 0.125), strict=True)),
    )
    history = {"loss": [1.0, 0.5], "mean_rank": [9.0, 6.0]}
    run = RunFacts(settings={"steps": 2}, history=history, steps=2)
    return replace(made, origin=Origin(learned, run))


@pytest.fixture(params=["kohya", "peft", "uniform"])
def own(request, tmp_path: Path) -> Path:
    path = tmp_path / "own.safetensors"
    lora2.save(path, lora(), form=request.param, diffusers=PATHS)
    return path


@pytest.fixture
def kohya(tmp_path: Path) -> Path:
    lora2.save(tmp_path / "own.safetensors", lora(), diffusers=PATHS)
    return tmp_path / "own.safetensors"


def parts(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:start]), data[start:]


def packed(path: Path, header: dict | bytes, payload: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


def with_metadata(path: Path, change: Callable[[Metadata], object]) -> None:
    """The header written anew, as editors of metadata do, the payload copied."""
    header, payload = parts(path)
    change(header["__metadata__"])
    packed(path, header, payload)


def resaved(
    path: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], **metadata: str
) -> None:
    """As a script does it: tensors changed, the old metadata handed on."""
    told = metadata_of(path) | metadata
    foreign(path, dict(change(safetensors.torch.load_file(path))), told)


def without_checksums(path: Path) -> None:
    """As files were before the checksums: of version 2, where every alpha is the rank."""
    told = {k: v for k, v in metadata_of(path).items() if k != CHECKS}
    tensors = safetensors.torch.load_file(path)
    for key in [key for key in tensors if key.endswith(".alpha")]:
        up = key.replace(".alpha", ".lora_up.weight")
        rank = tensors[up].shape[1]
        tensors[up] = (tensors[up].float() * (tensors[key] / rank)).to(tensors[up].dtype)
        tensors[key] = torch.tensor(float(rank))
    digest = hashlib.sha256(payload_of(safetensors.torch.save(tensors))).hexdigest()
    told |= {"lora2.version": "2", "sshs_model_hash": digest, KEY: EMPTY}
    told["modelspec.hash_sha256"] = f"0x{digest}"
    path.write_bytes(sealed(safetensors.torch.save(tensors, told)))


def pretty(path: Path) -> None:
    header, payload = parts(path)
    packed(path, json.dumps(header, indent=2, sort_keys=True).encode(), payload)


def padded(path: Path) -> None:
    header, payload = parts(path)
    packed(path, json.dumps(header).encode() + b" " * 1001, payload)


def other_order(path: Path) -> None:
    """Tensors in another order, so that the payload's hash is another one."""
    header, payload = parts(path)
    entries = {k: v for k, v in header.items() if k != "__metadata__"}
    moved, place = b"", 0
    for key in sorted(entries, reverse=True):
        start, end = entries[key]["data_offsets"]
        moved += payload[start:end]
        header[key]["data_offsets"] = [place, place := place + end - start]
    packed(path, header, moved)


EDITS = {
    "trigger words": {"modelspec.trigger_phrase": "an owl", "ss_tag_frequency": '{"a": {"b": 1}}'},
    "a row of others changed": {"modelspec.title": "mine", "ss_output_name": "x"},
    "a row of others gone": {"ss_network_module": None, "modelspec.date": None},
    "no JSON": {"ss_network_args": "hello {", "ss_tag_frequency": "["},
    "a huge row": {"modelspec.thumbnail": "data:image/png;base64," + "QUJD" * 1_000_000},
    "other hashes": {"sshs_model_hash": "0" * 64, "sshs_legacy_hash": "00000000"},
    "all hashes": {"sshs_model_hash": "0" * 64, "modelspec.hash_sha256": "0x12"},
    "no hashes": {"sshs_model_hash": None, "modelspec.hash_sha256": None},
    "no seal": {KEY: None},
    "a quote from the seal": {"modelspec.description": f'"{KEY}":"{EMPTY}"'},
}
FORMS = {"pretty": pretty, "padded": padded, "other order": other_order}
FORMS["through save_file"] = lambda path: resaved(path, dict, ss_training_comment="hello")


def apply(edit: str, path: Path) -> None:
    if edit in FORMS:
        return FORMS[edit](path)

    def change(metadata: Metadata) -> None:
        for key, value in EDITS[edit].items():
            metadata.pop(key, None)
            if value is not None:
                metadata[key] = value

    return with_metadata(path, change)


@pytest.mark.parametrize("edit", [*EDITS, *FORMS])
def test_edited_metadata_is_a_warning_and_all_of_ours_is_used(edit: str, own: Path, caplog):
    before = lora2.load(own)
    assert not before.origin.file.notes
    apply(edit, own)
    after = lora2.load(own)
    assert after.origin.file.notes == [EDITED_NOTE] and not after.origin.file.left_out
    assert list(after.layers) == list(before.layers) and same_updates(before, after)
    assert after.singular and after.origin.learned == before.origin.learned
    assert after.origin.run == before.origin.run
    assert "own.safetensors: its metadata was edited" in caplog.text and caplog.text.isascii()
    assert file_scales(own, after.origin.file.bases).keys() <= after.layers.keys()
    assert summary(after, "own").splitlines()[-1 - len(after.origin.file.changes)] == EDITED_NOTE


def test_the_edited_rows_are_named(kohya: Path, caplog):
    apply("trigger words", kohya)
    with_metadata(kohya, lambda m: m.update({"modelspec.title": "x"}) or m.pop("ss_v2"))
    changes = lora2.load(kohya).origin.file.changes
    assert changes == [
        "changed modelspec.title", "new modelspec.trigger_phrase", "new ss_tag_frequency",
        "gone ss_v2",
    ]  # fmt: skip
    assert all(change in caplog.text for change in changes)


OWN_EDITS = {  # edit of our own rows -> words of the reason
    "history no JSON": (lambda m: m.update({"lora2.history": "{"}), "lora2.history"),
    "history of texts": (lambda m: m.update({"lora2.history": '{"loss": "x"}'}), "lora2.history"),
    "history gone": (lambda m: m.pop("lora2.history"), "lora2.history is missing"),
    "settings a list": (lambda m: m.update({"lora2.settings": "[]"}), "lora2.settings"),
    "basis unknown": (lambda m: m.update({"lora2.basis": "mine"}), "lora2.basis"),
    "deep": (lambda m: m.update({"lora2.layers": "[" * 100_000}), "lora2.layers is no JSON"),
    "no list": (lambda m: m.update({"lora2.layers": "{}"}), "lora2.layers is no list"),
    "layers gone": (lambda m: m.pop("lora2.layers"), "lora2.layers is missing"),
}
ROW_EDITS = {  # edit of the second row of lora2.layers
    "short": lambda row: row[:5],
    "other shape": lambda row: [*row[:2], row[2] + 1, *row[3:]],
    "a number for a name": lambda row: [row[0], 7, *row[2:]],
    "negative": lambda row: [*row[:2], -5, *row[3:]],
    "huge": lambda row: [*row[:5], 10**30, *row[6:]],
    "not a number": lambda row: [*row[:6], float("nan"), 1.0],
    "infinity": lambda row: [*row[:7], float("inf")],
    "other kernel": lambda row: [*row[:4], [3, "x"], *row[5:]],
    "text": lambda row: "row",
}


@pytest.mark.parametrize("age", ["new", "old"])
@pytest.mark.parametrize("edit", OWN_EDITS)
def test_our_own_entries_are_left_out_one_by_one(edit: str, age: str, kohya: Path, caplog):
    if age == "old":
        without_checksums(kohya)
    before = lora2.load(kohya)
    change, words = OWN_EDITS[edit]
    with_metadata(kohya, change)
    after = lora2.load(kohya)
    assert same_updates(before, after)
    assert after.origin.file.notes == [EDITED_NOTE, LEFT_OUT_NOTE]
    assert [reason for reason in after.origin.file.left_out if words in reason]
    values = [
        {"history": o.run.history, "settings": o.run.settings, "basis": lora.singular}
        for lora in (before, after)
        for o in [lora.origin]
    ]
    for key in values[0].keys() - {words.split()[0].removeprefix("lora2.")}:
        assert values[0][key] == values[1][key]
    assert words in summary(after, "own") and words in caplog.text


@pytest.mark.parametrize("age", ["new", "old", "first"])
@pytest.mark.parametrize("edit", ROW_EDITS)
def test_layers_keep_their_update_when_their_row_is_no_good(edit: str, age: str, tmp_path: Path):
    path = tmp_path / "own.safetensors"
    lora2.save(path, lora())  # in names that follow from the module paths
    if age != "new":
        without_checksums(path)
    before, names = lora2.load(path), list(SHAPES)

    def change(metadata: Metadata) -> None:
        rows = json.loads(metadata["lora2.layers"])
        rows[1] = ROW_EDITS[edit](rows[1])
        metadata["lora2.layers"] = json.dumps(rows)
        if age == "first":
            del metadata[KEY]
            metadata["lora2.version"] = "1"

    with_metadata(path, change)
    after = lora2.load(path)
    assert same_updates(before, after) and len(after.layers) == len(before.layers)
    assert LEFT_OUT_NOTE in after.origin.file.notes and after.origin.file.left_out
    for key, values in vars(before.origin.learned).items():
        expected = {n: v for n, v in values.items() if n != names[1]}
        assert getattr(after.origin.learned, key) == expected


@pytest.mark.parametrize("place", [5, 6, 7], ids=["learned rank", "rate", "sensitivity"])
def test_a_row_with_other_sound_values_is_not_ours(place: int, kohya: Path):
    def change(metadata: Metadata) -> None:
        rows = json.loads(metadata["lora2.layers"])
        rows[0][place] = 1 if place == 5 else 0.75
        metadata["lora2.layers"] = json.dumps(rows)

    with_metadata(kohya, change)
    origin = lora2.load(kohya).origin
    assert len(origin.file.left_out) == 2 and "was changed" in origin.file.left_out[0]
    assert len(origin.learned.nu) == len(SHAPES) - 1


def test_a_path_that_nothing_confirms_is_not_believed(kohya: Path):
    """Of a file without checksums: the host finds the layer by its name in the file."""
    without_checksums(kohya)
    before = lora2.load(kohya)
    apply("trigger words", kohya)
    after = lora2.load(kohya)
    assert same_updates(before, after)
    assert all(name.startswith("lora_unet_down_blocks_") for name in after.layers)
    assert list(after.origin.learned.nu) == list(after.layers)


def test_without_its_metadata_it_is_a_plain_lora(own: Path, caplog):
    before = lora2.load(own)
    foreign(own, safetensors.torch.load_file(own))
    after = lora2.load(own)
    assert same_updates(before, after) and not caplog.text
    file = after.origin.file
    assert after.origin == Origin(file=SourceFile(metadata=file.metadata, keys=file.keys))


def scaled(tensors: dict[str, Tensor], factor: float, *endings: str) -> dict[str, Tensor]:
    return {k: t * factor if k.endswith(endings) else t for k, t in tensors.items()}


def resized(tensors: dict[str, Tensor], rank: int = 2) -> dict[str, Tensor]:
    """By SVD, lora_up with the singular values, as sd-scripts' resize does it."""
    out = {}
    for key, up in tensors.items():
        if not key.endswith(("lora_up.weight", "lora_B.weight")):
            continue
        other = key.replace("lora_up", "lora_down").replace("lora_B", "lora_A")
        down = tensors[other]
        u, s, v = torch.linalg.svd(up.flatten(1).float() @ down.flatten(1).float())
        n = min(rank, len(s))
        out[key] = (u[:, :n] * s[:n]).view(-1, n, *up.shape[2:]).half()
        out[other] = v[:n].view(n, *down.shape[1:]).half()
        if f"{key.partition('.lora_up')[0]}.alpha" in tensors:
            out[f"{key.partition('.lora_up')[0]}.alpha"] = torch.tensor(float(n))
    return out


def merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With one of the same ranks."""
    torch.manual_seed(0)
    return {
        k: t if k.endswith(".alpha") else t * (1 + torch.randn_like(t)) for k, t in tensors.items()
    }


def joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With an adapter of rank 1, ranks side by side."""
    out = {}
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            out[key] = tensor + 1
        else:
            side = 0 if key.endswith(("lora_down.weight", "lora_A.weight")) else 1
            out[key] = torch.cat([tensor.narrow(side, 0, 1), tensor], side)
    return out


REWRITES = {
    "bf16": lambda tensors: {k: t.bfloat16() for k, t in tensors.items()},
    "fp8": lambda tensors: {k: t.to(torch.float8_e4m3fn) for k, t in tensors.items()},
    "fp32": lambda tensors: {k: t.float() for k, t in tensors.items()},
    "resized": resized,
    "resized to 1": lambda tensors: resized(tensors, 1),
    "joined": joined,
    "scaled": lambda tensors: scaled(tensors, 0.5, "lora_up.weight", "lora_B.weight"),
    "renamed": lambda tensors: {f"x_{k}": t for k, t in tensors.items()},
    "a layer gone": lambda tensors: {k: t for k, t in tensors.items() if "_1" not in k[:30]
                                     and ".1." not in k[:30]},
}  # fmt: skip


@pytest.mark.parametrize("rewrite", REWRITES)
def test_other_tensors_are_a_plain_lora(rewrite: str, own: Path, caplog):
    tensors = REWRITES[rewrite](safetensors.torch.load_file(own))
    plain = lora2.load(foreign(own.with_name("plain.safetensors"), tensors))
    resaved(own, lambda _: tensors)
    found = lora2.load(own)
    assert found.origin.file.notes == [REWRITTEN_NOTE] and not found.origin.file.left_out
    assert found.origin == Origin(file=found.origin.file) and not found.origin.file.bases
    assert found.layers.keys() == plain.layers.keys()
    for name, layer in plain.layers.items():
        assert torch.equal(found.layers[name].delta(), layer.delta())
    assert "own.safetensors: its tensors were changed by another program" in caplog.text


@pytest.mark.parametrize("age", ["new", "old", "first"])
@pytest.mark.parametrize("change", ["alpha", "resized", "bf16", "merged"])
def test_files_of_every_age_may_be_rewritten(change: str, age: str, kohya: Path):
    rewrites = REWRITES | {
        "alpha": lambda tensors: scaled(tensors, 0.5, ".alpha"),
        "merged": merged,
    }
    if age == "old":
        without_checksums(kohya)
    if age == "first":
        kohya.write_bytes(GOLDEN.read_bytes())
    resaved(kohya, rewrites[change])
    assert lora2.load(kohya).origin.file.notes == [REWRITTEN_NOTE]


def test_a_new_hash_tells_that_one_tensor_was_changed_on_purpose(kohya: Path):
    resaved(kohya, lambda t: t | {min(t): t[min(t)] / 2})
    with pytest.raises(ValueError, match="own.safetensors is damaged, or another program changed"):
        lora2.load(kohya)
    digest = hashlib.sha256(parts(kohya)[1]).hexdigest()
    with_metadata(kohya, lambda m: m.update({"sshs_model_hash": digest}))
    assert lora2.load(kohya).origin.file.notes == [REWRITTEN_NOTE]


@pytest.mark.parametrize("age", ["new", "old", "first"])
@pytest.mark.parametrize("edited", [False, True])
def test_damage_is_found_in_files_of_every_age(age: str, edited: bool, kohya: Path):
    """Flipped bits, and a stretch of zeros, also after an edit that broke the seal."""
    if age == "old":
        without_checksums(kohya)
    if age == "first":
        kohya.write_bytes(GOLDEN.read_bytes())
    if edited:
        apply("trigger words", kohya)
        lora2.load(kohya)
    data, payload = kohya.read_bytes(), parts(kohya)[1]
    start = len(data) - len(payload)
    wrong = [flipped(data, 8 * start + bit) for bit in range(3, 8 * len(payload), 97)]
    quarter = len(payload) // 4
    wrong += [data[:-quarter] + bytes(quarter), data[: start + 99] + bytes(9) + data[start + 108 :]]
    for damaged in wrong:
        kohya.write_bytes(damaged)
        with pytest.raises(ValueError, match="own.safetensors is damaged"):
            lora2.load(kohya)


def test_every_bit_of_an_old_header_is_seen_or_changes_nothing(tmp_path: Path):
    path = tmp_path / "own.safetensors"
    lora2.save(path, random_lora({"a": (5, 6, 2, None), "b": (6, 5, 3, None)}))
    without_checksums(path)
    data = path.read_bytes()
    start = len(data) - len(parts(path)[1])
    assert all(seen_flip(path, data, bit) for bit in range(5, 8 * start, 11))
