"""Previews of several prompts, seeds and strengths, and the grid of them in the report."""

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from lora2_core import load, save
from lora2_core.charts.report import page
from lora2_core.host.apply import apply_lora
from lora2_core.host.data.preview_grid import preview_grid
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.previews import Preview, decode, sample
from lora2_core.host.training.run import train_on
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.host.test_together import given


@pytest.fixture
def run(playground, monkeypatch, tmp_path):
    """A short training whose pictures go to a folder of the test's own."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def go(*previews, on_step=quiet, **options):
        data = playground.model, playground.latents, playground.positive
        return train_on(*data, Choices.of(FIELDS | options | {"previews": previews}), on_step)

    return go


@pytest.fixture
def preview(playground):
    def make(**changes) -> Preview:
        fields = {"preview_every": 6, "steps": 2, "seed": 7} | changes
        return Preview(playground.positive[0], playground.vae, **fields)

    return make


@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
def test_a_strength_is_that_of_apply_and_training_does_not_notice(
    playground, run, preview, tmp_path, mode: str
):
    plain = run(mode=mode)
    settings = preview(strength=0.5, preview_every=12), preview(strength=-1.0, preview_every=5)
    out = run(*settings, mode=mode)
    assert bytes_of(out) == bytes_of(plain)
    latent = torch.zeros(1, 8, 8, 8)
    for number, strength in ((0, 0.5), (1, -1.0)):
        model, _ = apply_lora(playground.model, None, out.lora, strength, 1.0)
        name = {row[1]: row[2] for row in out.lora.origin.run.previews}[number]
        drawn = np.asarray(Image.open(tmp_path / name)).astype(int)
        wanted = np.asarray(decode(playground.vae, sample(model, preview(), latent))).astype(int)
        assert name.endswith("step-000012.png") and np.abs(drawn - wanted).max() <= 1


def test_a_run_knows_its_previews_and_a_file_does_not(run, preview, tmp_path):
    out = run(preview(prompt="an owl"), preview(seed=8, strength=0.5))
    rows = out.lora.origin.run.previews
    assert [row[:2] for row in rows] == [[s, n] for s in (0, 6, 12) for n in (0, 1)]
    assert {row[3] for row in rows} == {"an owl (seed 7)", "(seed 8, strength 0.5)"}
    assert all((tmp_path / row[2]).is_file() for row in rows)
    save(tmp_path / "a.safetensors", out.lora)
    assert b"previews" not in (tmp_path / "a.safetensors").read_bytes()
    loaded = load(tmp_path / "a.safetensors")
    assert not loaded.origin.run.previews and preview_grid(loaded) is None


def test_the_grid_has_a_row_for_each_step_and_the_page_shows_it(run, preview, tmp_path):
    out = run(*(preview(preview_every=1, seed=seed) for seed in range(8)))
    grid = preview_grid(out.lora)
    assert grid.steps[0] == 0 and grid.steps[-1] == 12 and len(grid.steps) == 8
    assert len(grid.labels) == 6 and all(len(row) == 6 for row in grid.pictures)
    first = np.asarray(Image.open(tmp_path / out.lora.origin.run.previews[0][2]))
    assert np.array_equal(grid.pictures[0][0], first)
    plain, shown = page(out.lora, "$owl$"), page(out.lora, "$owl$", grid=grid)
    assert shown.shape[0] > plain.shape[0] + 600
    for row in out.lora.origin.run.previews:
        (tmp_path / row[2]).unlink()
    assert preview_grid(out.lora) is None, "their files are gone"


def test_a_stopped_run_still_knows_the_previews_before(run, preview, name):
    part = run(preview(), on_step=stop_at(7), **keep(name))
    rest = run(preview(), **keep(name, resume=part.checkpoint))
    assert [row[0] for row in rest.lora.origin.run.previews] == [0, 6, 12]


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0, "../outside.png", "a"]], [[0, 0, "/etc/passwd", "a"]], [[0, 0, "text.png", "a"]],
        [["0", 0, "a.png", "a"]], [[0, 0, 3, "a"]], [3], [[0, 0]], [[0, 0, "", "a"]],
    ],
    ids=str,
)  # fmt: skip
def test_a_stranger_can_name_no_other_file(run, tmp_path, rows: list):
    """What a checkpoint says is judged as the names of a workflow are."""
    from dataclasses import replace

    (tmp_path / "text.png").write_text("no picture")
    outside = tmp_path.parent / "outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    lora = run(steps=1).lora
    lora = replace(lora, origin=replace(lora.origin, run=replace(lora.origin.run, previews=rows)))
    try:
        assert preview_grid(lora) is None
    finally:
        outside.unlink()


def previews_of(nodes, playground, **changes) -> tuple[Preview, ...]:
    node = nodes["LoRA2PreviewOptions"]
    (options,) = node.execute(**given(node, vae=playground.vae, **changes)).result
    return options["previews"]


def test_the_node_makes_one_preview_for_each_prompt_and_seed(nodes, playground):
    made = previews_of(
        nodes, playground, clip=playground.clip, prompts="an owl\n\n  a red fox ", seeds=2, seed=5,
        positive=playground.positive[0], prompt="first", strength=0.8, every=50,
    )  # fmt: skip
    assert [(p.prompt, p.seed) for p in made] == [
        ("first", 5), ("first", 6), ("an owl", 5), ("an owl", 6), ("a red fox", 5), ("a red fox", 6)
    ]  # fmt: skip
    assert {(p.strength, p.preview_every) for p in made} == {(0.8, 50)}
    wanted = playground.clip.encode_from_tokens_scheduled(playground.clip.tokenize("an owl"))
    assert torch.equal(made[2].positive[0][0], wanted[0][0])
    (only,) = previews_of(nodes, playground, clip=playground.clip, prompts="an owl")
    assert only.prompt == "an owl"


def test_an_older_workflow_gives_what_it_gave(nodes, playground):
    node = nodes["LoRA2PreviewOptions"]
    new = ("strength", "clip", "prompts", "seeds")
    fields = {k: v for k, v in given(node).items() if k not in new}
    (options,) = node.execute(**fields, positive=playground.positive[0], vae=playground.vae).result
    assert options["previews"] == (Preview(playground.positive[0], playground.vae),)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Nothing says what previews show: give positive, or clip and prompts."),
        ({"prompts": "an owl"}, "prompts need clip: connect the CLIP"),
        ({"prompts": "an owl", "clip": 3}, "clip is 3: connect a loader"),
        (
            {"prompts": "a\n" * 33, "clip": "real", "seeds": 2},
            "33 prompts with 2 seeds are more than",
        ),
        ({"prompts": "a", "clip": "real", "strength": 11.0}, "strength is 11.0"),
        ({"prompts": "a", "clip": "real", "seeds": 0}, "seeds is 0"),
    ],
)
def test_bad_input_is_one_sentence(nodes, playground, changes: dict, sentence: str):
    if changes.get("clip") == "real":
        changes = changes | {"clip": playground.clip}
    with pytest.raises(ValueError, match=sentence) as error:
        previews_of(nodes, playground, **changes)
    assert "\n" not in str(error.value)
