"""`nox -s exactness` prints what must be exact: loaders alike, the model untouched, the seed
obeyed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from lora2_core import RankSettings, TrainSettings, attach, load, save
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.playground import load_playground
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import ATTENTION
from lora2_core.playground import asset
from lora2_core.playground.subjects import examples
from tests.benchmarks.held_out import encode


def forward(model) -> torch.Tensor:
    """The denoised latents of fixed noise at four levels, [4, 8, 8, 8]."""
    comfy.model_management.load_models_gpu([model])
    generator = torch.Generator().manual_seed(0)
    x, context, y = (
        torch.randn(4, *shape, generator=generator) for shape in ((8, 8, 8), (16, 128), (320,))
    )
    return model.model.apply_model(x, torch.tensor([0.1, 1.0, 4.0, 12.0]), c_crossattn=context, y=y)


@torch.inference_mode()
def main() -> None:
    model, clip, vae = load_playground(asset.load())
    dataset = encode(clip, vae, *examples("owl", 8))
    output = forward(model).clone()
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}

    with on_loan(model) as inner, torch.no_grad():
        adapters = attach(inner, ATTENTION, RankSettings(target_rank=8, max_rank=32))
        first = (forward(model) - output).abs().max().item()
        adapters.detach()
    print(f"update at step 0, largest difference of the output: {first:g}")

    hashes, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(2):
            run = Choices(
                RankSettings(target_rank=8, max_rank=32),
                TrainSettings(100, 2e-3, seed=7),
                batch_size=8,
            )
            out = train_on(model, *dataset, run, lambda step: None)
            path = Path(folder) / f"{repeat}.safetensors"
            save(path, out.lora, dtype="fp32", diffusers=out.lora.origin.base.diffusers)
            hashes.append(load(path).origin.file.metadata["sshs_model_hash"])
            losses.append(out.losses[-1])
        same = all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
        print(f"incoming MODEL after two trainings: weights bit-identical {same}, "
              f"output bit-identical {torch.equal(forward(model), output)}")  # fmt: skip
        heads = ", ".join(h[:16] for h in hashes)
        print(f"same seed twice: {heads}, equal {hashes[0] == hashes[1]}")

        ours = forward(apply_lora(model, None, adopt(load(path), model), 1.0, 1.0)[0]).clone()
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        stock = forward(comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]).clone()
        live = forward(apply_lora(model, None, out.lora, 1.0, 1.0)[0])
        print(f"stock LoraLoader against LoRA2Load, fp32 file: {(stock - ours).abs().max():.2g}")
        print(f"LoRA2Load against the adapter before saving: {(live - ours).abs().max():.2g}")
        print(f"(the adapter itself changes the output by {(live - output).abs().max():.2g})")


if __name__ == "__main__":
    main()
