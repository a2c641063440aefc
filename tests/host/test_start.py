"""Training goes on from finished adapters: our own files and those of other programs begin as the
host's own loader applies them.
"""

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch

from lora2_core import load, save
from lora2_core.host.naming import diffusers_paths
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.host.training.start import StartSettings
from lora2_core.layers.starting import fingerprint
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.tiers import each_once
from tests.toys import foreign

FIRST = FIELDS | {"steps": 1, "learning_rate": 1e-11, "batch_size": 4, "seed": 8}
LAYERS = ("attn1.to_q", "attn2.to_k", "ff.net.2", "in_layers.2")


@pytest.fixture(scope="module")
def own(playground):
    """An adapter of ours: attention, learned ranks."""
    data = playground.model, playground.latents, playground.positive
    fields = FIELDS | {"targets": r"attn\d.to_(q|k|v|out.0)$", "steps": 12}
    with torch.inference_mode():
        return train_on(*data, Choices.of(fields), quiet).lora


@pytest.fixture(scope="module")
def files(playground, own, tmp_path_factory):
    """Paths by kind: our own as kohya and as PEFT file, and of other programs, with linear layers
    and a convolution, an alpha of its own and the names of the host and of diffusers.
    """
    folder = tmp_path_factory.mktemp("files")
    for form in ("kohya", "peft", "uniform"):
        save(folder / f"own_{form}.safetensors", own, form=form, dtype="fp32")
    diffusers = diffusers_paths(playground.model)
    generator = torch.Generator().manual_seed(5)
    kohya, sgm, peft = {}, {}, {}
    for name, module in playground.model.model.named_modules():
        path = name.removeprefix("diffusion_model.")
        if not name.endswith(LAYERS) or path not in diffusers:
            continue
        out, *rest = module.weight.shape
        up = 0.3 * torch.randn(out, 3, generator=generator)
        down = torch.randn(3, *rest, generator=generator) / module.weight[0].numel() ** 0.5
        up = up[:, :, None, None] if len(rest) == 3 else up
        for table, base in (
            (kohya, f"lora_unet_{diffusers[path]}"), (sgm, f"lora_unet_{path}")
        ):  # fmt: skip
            base = base.replace(".", "_")
            table[f"{base}.lora_up.weight"], table[f"{base}.lora_down.weight"] = up, down
            table[f"{base}.alpha"] = torch.tensor(1.5)
        peft[f"unet.{diffusers[path]}.lora_B.weight"] = up / 2
        peft[f"unet.{diffusers[path]}.lora_A.weight"] = down
    for kind, tensors in (("kohya", kohya), ("sgm", sgm), ("peft", peft)):
        foreign(folder / f"other_{kind}.safetensors", tensors)
    return folder


OURS, OTHERS = ("own_kohya", "own_peft", "own_uniform"), ("other_kohya", "other_sgm", "other_peft")


def trained_on(playground, model=None, on_step=quiet, **fields):
    data = model or playground.model, playground.latents, playground.positive
    return train_on(*data, Choices.of(fields), on_step)


def as_the_host_applies(playground, path):
    """A clone with the file on it, through the host's loader; PEFT names of UNets, which it does
    not read, through a kohya file of the same layers.
    """
    if path.stem.endswith("peft"):
        return as_the_host_applies(playground, path.with_stem(path.stem.replace("peft", "kohya")))
    tensors = comfy.utils.load_torch_file(str(path))
    return comfy.sd.load_lora_for_models(playground.model, None, tensors, 1.0, 1.0)[0]


@pytest.mark.parametrize(("kind", "mode"), each_once(OURS + OTHERS, ["adaptive", "paper", "fixed"]))
def test_the_first_loss_is_that_of_the_file_in_the_hosts_loader(playground, files, kind, mode):
    """Bigger than what the model alone has by far more than the tolerance."""
    path = files / f"{kind}.safetensors"
    fields = FIRST | {"mode": mode}
    started = trained_on(playground, start_from=load(path), **fields)
    patched = trained_on(playground, as_the_host_applies(playground, path), **fields)
    plain = trained_on(playground, **fields)
    assert started.losses[0] == pytest.approx(patched.losses[0], rel=1e-5)
    assert abs(plain.losses[0] - patched.losses[0]) > 1e-3 * plain.losses[0]


@pytest.mark.parametrize("kind", ("own_kohya", "other_kohya"))
def test_what_comes_out_untrained_is_what_went_in(playground, files, kind, tmp_path):
    """Through our file and the host's loader: every key matched, the same output."""
    path = files / f"{kind}.safetensors"
    end = trained_on(playground, start_from=load(path), **FIRST | {"mode": "fixed"})
    save(tmp_path / "again.safetensors", end.lora, dtype="fp32")
    outputs = [
        playground.forward(as_the_host_applies(playground, p))
        for p in (path, tmp_path / "again.safetensors")
    ]
    torch.testing.assert_close(*outputs, rtol=0, atol=2e-5)
    assert not torch.allclose(outputs[0], playground.forward(), atol=1e-3)


def test_training_goes_on(playground, own):
    """The loss begins where it ended, far below that of a fresh start, and falls."""
    fields = FIELDS | {"steps": 24, "batch_size": 4, "targets": "attn", "seed": 9}
    data = {"start_from": own}
    fresh, again = trained_on(playground, **fields), trained_on(playground, **fields, **data)
    assert again.losses[0] < fresh.losses[0]
    assert sum(again.losses[-8:]) < sum(again.losses[:8])
    assert again.lora.origin.run.settings["start"] == fingerprint(own)
    assert again.lora.origin.run.settings["weight_decay"] == 0
    assert "start" not in fresh.lora.origin.run.settings
    assert again.lora.mean_rank <= 4, "the ceiling holds"


def test_layers_beyond_the_targets_are_adopted_or_named(playground, files, caplog):
    given = load(files / "other_kohya.safetensors")
    both = trained_on(playground, start_from=given, **FIRST | {"targets": "attn2.to_q"})
    names = [n for n, _ in playground.model.model.named_modules() if n in both.lora.layers]
    assert list(both.lora.layers) == names, "in the model's order"
    assert len(names) == len(given.layers) + sum(n.endswith("attn2.to_q") for n in names)
    assert not caplog.records
    fields = FIRST | {"targets": "attn2", "adopt_layers": False}
    few = trained_on(playground, start_from=given, **fields)
    assert all("attn2" in name for name in few.lora.layers)
    kept = sum(n.endswith("attn2.to_k") for n in names)
    count = len(given.layers)
    assert f"leaves out {count - kept} of the {count} layers" in caplog.text


def test_strength_scales_the_start(playground, files):
    path = files / "other_sgm.safetensors"
    half = trained_on(playground, start_from=load(path), start_strength=0.5, **FIRST)
    tensors = comfy.utils.load_torch_file(str(path))
    patched = comfy.sd.load_lora_for_models(playground.model, None, tensors, 0.5, 0.5)[0]
    assert half.losses[0] == pytest.approx(
        trained_on(playground, patched, **FIRST).losses[0], rel=1e-5
    )


def test_a_checkpoint_of_such_a_run_goes_on_to_the_same_bytes(playground, own, files, name):
    fields = FIELDS | {"start_from": own, "targets": "attn"}
    whole = trained_on(playground, **fields)
    part = trained_on(playground, on_step=stop_at(7), **fields, **keep(name))
    rest = trained_on(playground, **fields, **keep(name, resume=part.checkpoint))
    assert rest.resumed_after == 7 and bytes_of(rest) == bytes_of(whole)
    again = keep(name, 0, part.checkpoint)
    other = load(files / "own_kohya.safetensors").within(3000)
    with pytest.raises(ValueError, match=r"another run: start [0-9a-f]{16} there, [0-9a-f]{16} he"):
        trained_on(playground, **fields | {"start_from": other}, **again)
    with pytest.raises(ValueError, match=r"start_strength 1.0 there, 0.5 here"):
        trained_on(playground, **fields, start_strength=0.5, **again)
    del fields["start_from"]
    with pytest.raises(ValueError, match=r"start [0-9a-f]{16} there, none here"):
        trained_on(playground, **fields, weight_decay=0.0, **again)


def test_blocks_may_be_computed_again(playground, own):
    """Gradient checkpointing begins from the same output."""
    fields = FIRST | {"start_from": own, "targets": "attn"}
    on, off = (trained_on(playground, **fields, checkpointing=c) for c in ("on", "off"))
    assert on.losses == pytest.approx(off.losses, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_rank": 4}, "has rank [0-9]+, but at most 4 is allowed here: raise max_rank"),
        ({"start_strength": 0.0}, "strength is 0.0: give a number from 0.01 to 10"),
        ({"adopt_layers": "false"}, "adopt_layers is 'false': give True or False"),
        ({"adopt_layers": False, "targets": "label_emb"}, "None of the .* layers of the adapter to "
         "start from is trained here .*: choose its layers in LoRA2 Target Options"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_step(playground, own, change, sentence):
    fields = FIELDS | {"start_from": own, "start_rank": 4} | change
    with pytest.raises(ValueError, match=sentence) as caught:
        trained_on(playground, on_step=stop_at(1, AssertionError), **fields)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_an_adapter_of_another_model_is_refused(playground, tmp_path):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    strange = {f"{key}.lora_up.weight": torch.ones(9, 2)}
    strange[f"{key}.lora_down.weight"] = torch.ones(2, 9)
    given = load(foreign(tmp_path / "f.safetensors", strange))
    with pytest.raises(ValueError, match="Of the adapter to start from: Layer .* is for a weight of"
                       " 9 x 9, .* belongs to another base model"):  # fmt: skip
        trained_on(playground, start_from=given, **FIRST)
    renamed = {k.replace("mid", "middle"): t for k, t in strange.items()}
    given = load(foreign(tmp_path / "g.safetensors", renamed))
    with pytest.raises(ValueError, match="None of the adapter's 1 layers is in this model"):
        trained_on(playground, start_from=given, **FIRST)


def test_the_form_reads_a_file_or_takes_an_adapter(nodes, own, files, monkeypatch):
    node, path = nodes["LoRA2StartOptions"], files / "other_kohya.safetensors"
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(files)])
    (options,) = node.execute(lora_name=path.name, options={"targets": "attn2"}).result
    run = Choices.of({**options, "steps": 3})
    assert fingerprint(run.start.start_from) == fingerprint(load(path))
    assert run.target.targets == "attn2"
    fields = {"strength": 0.5, "adopt_layers": False, "lora_name": "gone.safetensors"}
    (options,) = node.execute(**fields, lora2=own).result
    assert Choices.of(options).start == StartSettings(None, 0.5, False)
    assert options["start_from"] is own
    inputs = {f.id: getattr(f, "default", None) for f in node.define_schema().inputs}
    assert (inputs["strength"], inputs["adopt_layers"]) == (1.0, True), "as without the fields"
    with pytest.raises(ValueError, match="There is no file 'gone.safetensors' in the loras folder"):
        node.execute(lora_name="gone.safetensors")
    with pytest.raises(ValueError, match="lora2 is {'not': 'one'}: connect LoRA2 Train"):
        node.execute(lora2={"not": "one"})


def test_layers_of_a_text_encoder_that_is_not_connected_are_said(playground, tmp_path):
    """A log line alone is seen by nobody."""
    path = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q"
    text = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    sides = {"lora_up.weight": (96, 2), "lora_down.weight": (2, 96)}
    tensors = {f"{base}.{end}": torch.ones(*s) for base in (path, text) for end, s in sides.items()}
    lora, notes = load(foreign(tmp_path / "text.safetensors", tensors)), []
    data = playground.model, playground.latents, playground.positive
    for adopt_layers, count in ((True, 1), (False, 0)):
        notes.clear()
        choices = Choices.of(FIRST | {"start_from": lora, "adopt_layers": adopt_layers})
        train_on(*data, choices, quiet, on_note=notes.append)
        assert [note[1:] for note in notes] == [[1, 2, text]] * count


def test_an_adapter_without_pairs_is_refused(playground, tmp_path):
    base = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.hada_w"
    sides = {"1_a": (96, 2), "1_b": (2, 96), "2_a": (96, 2), "2_b": (2, 96)}
    tensors = {base + end: torch.ones(*shape) for end, shape in sides.items()}
    lora = load(foreign(tmp_path / "loha.safetensors", tensors))
    data = playground.model, playground.latents, playground.positive
    with pytest.raises(ValueError, match=r"no low-rank pairs \(LoHa\): LoRA2 Compress"):
        train_on(*data, Choices.of(FIRST | {"start_from": lora}), quiet)
