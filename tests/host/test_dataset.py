"""A folder of pictures through the playground's encoders: the cache, the lists, and bad input."""

import os
from dataclasses import replace

import pytest
import torch
from PIL import Image

import lora2_core.host.data.folder_dataset as pictures
from lora2_core import RankSettings, TrainSettings
from lora2_core.dataset.plan import DatasetSettings
from lora2_core.host.data.encoding import clip_identity, from_tensors, to_tensors, vae_identity
from lora2_core.host.data.folder_dataset import make_dataset
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on

SMALL = DatasetSettings(caption="owl, noto style", resolution=32)


def quiet(done: int, of: int) -> None:
    """Nobody looks at the progress."""


def dataset(playground, settings=SMALL, on_picture=quiet):
    return make_dataset("owl", playground.clip, playground.vae, settings, on_picture)


def same(a, b) -> bool:
    """Two datasets with equal tensors."""
    latents = zip(a.latents, b.latents, strict=True)
    conditions = zip(a.positive, b.positive, strict=True)
    return all(torch.equal(x["samples"], y["samples"]) for x, y in latents) and all(
        torch.equal(x[0][0], y[0][0])
        and torch.equal(x[0][1]["pooled_output"], y[0][1]["pooled_output"])
        and x[0][1].keys() == y[0][1].keys()
        for x, y in conditions
    )


def test_it_gives_what_the_encoders_give(playground, folder):
    """Pictures of the right size pass unchanged; the progress bar goes from start to end."""
    progress = []
    made = dataset(playground, on_picture=lambda done, of: progress.append((done, of)))
    assert sorted(set(progress)) == [(done, 4) for done in range(5)] and progress[-1] == (4, 4)
    assert len(made.latents) == len(made.positive) == 4
    for latent, wanted in zip(made.latents, playground.latents, strict=True):
        assert torch.allclose(latent["samples"], wanted["samples"], atol=1e-5)
    for entry, wanted in zip(made.positive, playground.positive, strict=True):
        assert torch.equal(entry[0][0], wanted[0][0])
    assert "owl: pictures 4, entries 4" in made.report and "32x32 (4)" in made.report
    assert "captions: 4 from .txt files" in made.report


def test_the_second_run_encodes_nothing_and_gives_the_same(playground, folder, monkeypatch):
    settings = DatasetSettings(resolution=32, flip=True, crops=2, shuffle_tags=2)
    first = dataset(playground, settings)
    assert "cache: 0 of 24 latents" in first.report

    def encoded(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(playground.vae, "encode", encoded)
    monkeypatch.setattr(playground.clip, "encode_from_tokens_scheduled", encoded)
    second = dataset(playground, settings)
    assert same(first, second)
    assert "cache: 24 of 24 latents, 7 of 7 captions" in second.report  # some orders came twice


def test_a_damaged_cache_is_made_again(playground, folder, caplog):
    first = dataset(playground)
    files = sorted(pictures.cache_folder().rglob("*.safetensors"))
    assert len(files) == 8
    for index, file in enumerate(files):
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data if index % 2 else data[:40])
    second = dataset(playground)
    assert same(first, second)
    assert "cache: 0 of 4 latents, 0 of 4 captions" in second.report
    assert caplog.text.count("is damaged: made again") == 8
    assert "cache: 4 of 4 latents, 4 of 4 captions" in dataset(playground).report


def test_a_changed_picture_or_caption_is_encoded_again(playground, folder):
    first = dataset(playground)
    Image.new("RGB", (32, 32), "red").save(folder / "0.png")
    (folder / "1.txt").write_text("another, caption", encoding="utf-8")
    second = dataset(playground)
    assert "cache: 3 of 4 latents, 3 of 4 captions" in second.report
    assert not torch.equal(first.latents[0]["samples"], second.latents[0]["samples"])
    assert not torch.equal(first.positive[1][0][0], second.positive[1][0][0])


def test_another_model_has_another_identity(playground):
    assert vae_identity(playground.vae) == vae_identity(playground.vae)
    skipping = playground.clip.clone()
    skipping.clip_layer(-2)
    assert clip_identity(skipping) != clip_identity(playground.clip)
    weight = next(p for p in playground.vae.first_stage_model.parameters() if p.dim() > 1)
    before, kept = vae_identity(playground.vae), weight.clone()
    weight.mul_(1.001)
    assert vae_identity(playground.vae) != before
    weight.copy_(kept)
    assert vae_identity(playground.vae) == before


def test_patches_of_a_clone_tell_it_from_the_base(playground):
    """Also while the clone's patches are on the weights that both share."""
    before = clip_identity(playground.clip)
    patched = playground.clip.clone()
    name, weight = next(
        (k, v) for k, v in patched.patcher.model.state_dict().items() if k.endswith("q_proj.weight")
    )
    patched.add_patches({name: (torch.ones_like(weight),)})
    patched.encode_from_tokens_scheduled(patched.tokenize("owl"))
    assert name in patched.patcher.backup
    assert clip_identity(playground.clip) == before != clip_identity(patched)
    playground.clip.encode_from_tokens_scheduled(playground.clip.tokenize("owl"))
    assert clip_identity(playground.clip) == before


def test_conditioning_survives_being_taken_apart(playground):
    conditioning = playground.positive[0] + playground.positive[1]
    conditioning[0][1]["strength"] = 0.5
    again = from_tensors(to_tensors(conditioning))
    assert [facts.keys() for _, facts in again] == [facts.keys() for _, facts in conditioning]
    assert torch.equal(again[1][0], conditioning[1][0]) and again[0][1]["strength"] == 0.5
    conditioning[0][1]["strength"] = object()
    assert to_tensors(conditioning) is None
    del conditioning[0][1]["strength"]


def test_the_lists_train(playground, folder):
    Image.new("RGB", (60, 36), "red").save(folder / "wide.png")
    made = dataset(playground, DatasetSettings("red", resolution=32, flip=True))
    assert {tuple(x["samples"].shape) for x in made.latents} == {(1, 8, 8, 8), (1, 8, 6, 10)}
    run = Choices(RankSettings(target_rank=4, max_rank=8), TrainSettings(steps=6), batch_size=2)
    out = train_on(playground.model, made.latents, made.positive, run, lambda step: None)
    assert len(out.losses) == 6 and out.stopped_by is None


def test_the_hosts_own_nodes_take_the_lists(playground, folder):
    from comfy_extras.nodes_dataset import ResolutionBucket

    Image.new("RGB", (60, 36), "red").save(folder / "wide.png")
    made = dataset(playground)
    latents, positive = ResolutionBucket.execute(made.latents, made.positive).args
    assert [tuple(x["samples"].shape) for x in latents] == [(4, 8, 8, 8), (1, 8, 6, 10)]
    assert [len(p) for p in positive] == [4, 1]


def test_repeats_flips_and_captions_make_the_entries(playground, folder):
    for name, files in (("6_owl", "01"), ("2_other", "23")):
        (folder / name).mkdir()
        for file in files:
            for suffix in (".png", ".txt"):
                os.rename(folder / f"{file}{suffix}", folder / name / f"{file}{suffix}")
    made = dataset(playground)
    assert len(made.latents) == 2 * 3 + 2 * 1
    assert "repeats: 2 (2), 6 (2)" in made.report
    made = dataset(playground, DatasetSettings(resolution=32, caption_dropout=0.2))
    assert len(made.latents) == 10 and "without caption: 2 entries (20.0%)" in made.report
    nothing = playground.clip.encode_from_tokens_scheduled(playground.clip.tokenize(""))
    assert [torch.equal(c[0][0], nothing[0][0]) for c in made.positive] == [False] * 8 + [True] * 2


def test_a_mirrored_picture_is_mirrored(playground, folder):
    plain = dataset(playground)
    for file in folder.glob("*.png"):
        with Image.open(file) as image:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(file)
    both = dataset(playground, DatasetSettings(resolution=32, flip=True))
    for index, latent in enumerate(plain.latents):
        assert torch.equal(latent["samples"], both.latents[2 * index + 1]["samples"])


def test_bad_files_are_skipped_with_the_reason(playground, folder):
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.json").write_text("{}")
    Image.new("RGB", (9, 9)).save(folder / "small.png")
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.open(folder / "1.png").save(folder / "cut.jpg", quality=100)
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[:-2])
    (folder / "half.jpg").write_bytes(data[: len(data) // 2])
    os.rename(folder / "0.png", os.path.join(os.fsencode(folder), b"caf\xe9.png"))
    for _ in range(2):  # also of what is remembered
        made = dataset(playground, replace(SMALL, shuffle_tags=1))
        assert len(made.latents) == 12
        for line in (
            "skipped: 4\n", "broken.png: unreadable", "empty.jpg: empty", "other files: 1 (.json)",
            "\nseveral frames or pages, first used: 1 (moving.gif)\n", "half.jpg: cut off: ",
            "small.png: 9x9 is too small for 32x32",
            "\ncut off at the end, used: 1 (cut.jpg)\n",
            "captions: 3 from .txt files, 3 without one", "0.txt: a caption without its picture",
        ):  # fmt: skip
            assert line in made.report, made.report
        assert made.report.encode()


@pytest.fixture
def unencoded(playground, monkeypatch):
    """Nothing may be encoded."""

    def encoded(*_):
        raise AssertionError("encoded bad input")

    monkeypatch.setattr(playground.vae, "encode", encoded)
    monkeypatch.setattr(playground.clip, "encode_from_tokens_scheduled", encoded)


def test_faults_are_one_sentence_before_anything_is_encoded(playground, folder, unencoded):
    with pytest.raises(ValueError, match="resolution is 24, but this VAE needs at least 32: raise"):
        dataset(playground, DatasetSettings(resolution=24))
    (folder / "2.txt").unlink()
    with pytest.raises(ValueError, match="no caption for 2.png: put 2.txt beside it"):
        dataset(playground, DatasetSettings(resolution=32))
    for name in ("../owl", "/etc", "", "owl/../..", "gone", "a\0b", "\ud800", None):
        with pytest.raises(ValueError, match="folder"):
            make_dataset(name, playground.clip, playground.vae, SMALL, quiet)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="holds no pictures: put png"):
        dataset(playground)
    (folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No picture can be used: empty.jpg \(empty\); replace"):
        dataset(playground)
    with pytest.raises(ValueError, match="vae is empty: connect"):
        make_dataset("owl", playground.clip, None, SMALL, quiet)


def test_an_interrupt_keeps_what_is_encoded(playground, folder):
    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset(playground, on_picture=interrupt)
    assert "cache: 2 of 4 latents" in dataset(playground).report


def test_nan_of_the_vae_is_named_and_not_kept(playground, folder, monkeypatch):
    nan = torch.full((1, 8, 8, 8), float("nan"))
    with monkeypatch.context() as patch:
        patch.setattr(playground.vae, "encode", lambda image: nan)
        with pytest.raises(ValueError, match="0.png: the VAE gives NaN: start ComfyUI with"):
            dataset(playground)
    assert "cache: 0 of 4 latents" in dataset(playground).report


def test_several_resolutions_of_one_folder(playground, folder):
    """Each as if the folder had that resolution alone, masks too, from the cache a second time."""
    Image.new("RGB", (72, 48), "red").save(folder / "wide.png")
    Image.new("L", (72, 48), 255).save(folder / "wide-masklabel.png")
    several = replace(SMALL, flip=True, more_resolutions="48, 64")
    made = dataset(playground, several)
    assert "resolutions: 32 (5), 48 (1), 64 (0)" in made.report
    alone = {r: dataset(playground, replace(SMALL, flip=True, resolution=r)) for r in (32, 48)}
    assert made.latents[-1]["samples"].shape[2:] == (10, 14)
    for found, wanted in ((made.latents[:10], alone[32]), (made.latents[10:], alone[48])):
        for one, other in zip(found, wanted.latents[-len(found) :], strict=True):
            assert torch.equal(one["samples"], other["samples"])
    assert [m.shape[-2:] for m in made.masks] == [x["samples"].shape[-2:] for x in made.latents]
    again = dataset(playground, several)
    assert same(made, again) and "cache: 12 of 12 latents" in again.report
    run = Choices.of({"steps": 4, "target_rank": 2, "batch_size": 2, "validation_split": 0.2})
    out = train_on(playground.model, made.latents, made.positive, run, lambda step: None)
    assert len(out.losses) == 4 and out.stopped_by is None
    assert out.lora.origin.run.settings.get("validation_split") == 0.2
