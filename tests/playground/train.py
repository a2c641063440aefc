"""Trains the playground: autoencoder, then text encoder and UNet together, in the host's own model
classes.

`nox -s train-playground` runs it; `--minutes` bounds the latent diffusion part. A run continues
from its checkpoint in the folder when it is started again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from comfy.ldm.modules.attention import optimized_attention_for_device
from einops import rearrange
from safetensors.torch import save_file
from torch.nn import functional as F

from lora2_core.host.playground import build_clip, build_model, latent_format
from lora2_core.playground.asset import PATH
from lora2_core.playground.autoencoder import Autoencoder, psnr
from lora2_core.playground.subjects import BACKGROUNDS, STYLES, SUBJECTS, caption, compose
from lora2_core.playground.tokenizer import RARE_TOKENS, build_vocabulary
from tests.playground.pictures import load, to_images


def initialise(module: torch.nn.Module) -> None:
    """The host's layers leave weights uninitialised: torch's own defaults, zero at each residual's
    end.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.Linear.reset_parameters(layer)
        elif isinstance(layer, torch.nn.Conv2d):
            torch.nn.Conv2d.reset_parameters(layer)
        elif isinstance(layer, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        elif isinstance(layer, torch.nn.Embedding):
            torch.nn.init.normal_(layer.weight, std=0.5)
        if name.endswith(("out_layers.3", "proj_out", "out.2")):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)


def train_autoencoder(images: torch.Tensor, folder: Path, minutes: float) -> Autoencoder:
    """L1 + L2 with a little noise on the latent, so that the decoder forgives the diffusion
    model.
    """
    model, path = Autoencoder(), folder / "autoencoder.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    start, step, batch = time.time(), 0, 64
    while (done := (time.time() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                2e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done)) + 1e-5
            )
        x = images[torch.randint(len(images), (batch,))]
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encode(x)
            y = model.decode(z + 0.05 * torch.randn_like(z)).float()
        loss = F.mse_loss(y, x) + 0.5 * F.l1_loss(y, x) + 1e-3 * z.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(
                f"autoencoder step {step} loss {loss.item():.4f} psnr {psnr(x, y):.1f} dB",
                flush=True,
            )
    torch.save(model.state_dict(), path)
    return model


class Data:
    """Every base picture on every background as latents, with its caption as token ids."""

    def __init__(self, folder: Path, vae_minutes: float):
        pictures, rows = load(folder)
        base = [i for i, row in enumerate(rows) if row[0] not in SUBJECTS]
        images = np.stack([compose(pictures[base], b) for b in BACKGROUNDS], 1).reshape(
            -1, 32, 32, 3
        )
        self.labels = [(rows[i][0], rows[i][1], b) for i in base for b in BACKGROUNDS]
        self.vocabulary = build_vocabulary(caption(*label) for label in self.labels)
        self.images = to_images(images)
        self.vae = train_autoencoder(self.images, folder, vae_minutes).eval().requires_grad_(False)
        with torch.no_grad():
            latents = torch.cat([self.vae.encode(x) for x in self.images.split(256)])
            decoded = torch.cat([self.vae.decode(z) for z in latents[::17].split(256)])
        print(
            f"{len(latents)} latents, autoencoder {psnr(self.images[::17], decoded):.1f} dB",
            flush=True,
        )
        self.scale = 1 / latents.std().item()
        self.latents = latents * self.scale
        small = F.avg_pool2d(self.images, 4)
        z = rearrange(self.latents, "n c h w -> (n h w) c")
        z = torch.cat([z, torch.ones(len(z), 1)], 1)
        self.rgb = torch.linalg.lstsq(z, rearrange(small, "n c h w -> (n h w) c")).solution

    def tokens(self, tokenizer, index: list[int], rng: np.random.RandomState) -> list[list[int]]:
        """Captions as token ids: one in ten empty, one in ten with a made-up word for the label."""
        out = []
        for i in index:
            label, style, background = self.labels[i]
            chance = rng.rand()
            if chance < 0.1:
                label = f"<rare {rng.randint(RARE_TOKENS)}>".replace(" ", "\0")
            text = "" if chance > 0.9 else caption(label, style, background)
            pairs = tokenizer.tokenize_with_weights(text.replace("\0", " "))[0]
            out.append([token for token, _ in pairs])
        return out


def text_features(clip, tokens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [B, length, width] and pooled vectors [B, width], with gradients.

    The host's own layers add to their input in place, which autograd refuses: the same sums, out of
    place.
    """
    ids = torch.tensor(tokens)
    transformer = clip.cond_stage_model.clip_l.transformer
    model, end = transformer.text_model, clip.tokenizer.clip_l.end_token
    x = model.embeddings(ids)
    mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max).triu_(1)
    attention = optimized_attention_for_device(x.device, mask=True, small_input=True)
    for layer in model.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention)
        x = x + layer.mlp(layer.layer_norm2(x))
    x = model.final_layer_norm(x)
    pooled = x[torch.arange(len(x)), (ids == end).int().argmax(1)]
    return x, transformer.text_projection(pooled)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--minutes", type=float, default=90)
    options.add_argument("--vae-minutes", type=float, default=8)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--rate", type=float, default=1.2e-3)
    options.add_argument(
        "--steps", type=int, default=0, help="stop after so many steps: for a speed test"
    )
    options.add_argument("--output", type=Path, default=PATH)
    args = options.parse_args()
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    data = Data(args.folder, args.vae_minutes)
    model = build_model(latent_format(data.scale, data.rgb.tolist()))
    unet, sampling = model.diffusion_model, model.model_sampling
    clip = build_clip(data.vocabulary)
    text = clip.cond_stage_model.clip_l.transformer
    tokenizer = clip.tokenizer.clip_l
    for module in (unet, text):
        initialise(module)
        module.requires_grad_(True).train()
    parameters = [p for m in (unet, text) for p in m.parameters()]
    size, words = sum(p.numel() for p in unet.parameters()), len(data.vocabulary)
    print(f"UNet {size / 1e6:.2f} M parameters, {words} words")
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = [p.detach().clone() for p in parameters]
    sizes = model.encode_adm(pooled_output=torch.zeros(1, text.text_projection.weight.shape[0]))
    step, spent, path = 0, 0.0, args.folder / "diffusion.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        for p, a, value, mean in zip(
            parameters, average, saved["parameters"], saved["average"], strict=True
        ):
            p.data.copy_(value)
            a.copy_(mean)
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
    running, start, first = 0.0, time.time() - spent, step

    def export() -> None:
        names = [
            f"{part}.{k}"
            for part, m in (("unet", unet), ("text", text))
            for k, _ in m.named_parameters()
        ]
        tensors = {n: a.half().contiguous() for n, a in zip(names, average, strict=True)}
        tensors |= {f"vae.{k}": v.half().contiguous() for k, v in data.vae.state_dict().items()}
        facts = {
            "vocabulary": data.vocabulary,
            "latent_scale": data.scale,
            "latent_rgb": data.rgb.tolist(),
        }
        save_file(
            tensors, args.output, {"playground": json.dumps(facts), "styles": json.dumps(STYLES)}
        )
        state = {"parameters": [p.detach() for p in parameters], "average": average, "step": step}
        torch.save(
            state | {"optimizer": optimizer.state_dict(), "spent": time.time() - start}, path
        )

    order = iter(())
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                args.rate * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * done)) + 1e-6
            )
        index = list(next(order, ()))
        if len(index) < args.batch:
            shuffled = rng.permutation(len(data.labels))
            order = iter(
                shuffled[: len(shuffled) // args.batch * args.batch].reshape(-1, args.batch)
            )
            index = list(next(order))
        x = data.latents[index]
        t = torch.randint(1000, (args.batch,))
        sigma = sampling.sigma(t).view(-1, 1, 1, 1)
        noise = torch.randn_like(x)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, pooled = text_features(clip, data.tokens(tokenizer, index, rng))
            y = torch.cat([pooled, sizes[:, pooled.shape[1] :].expand(args.batch, -1)], 1)
            predicted = unet(
                (x + sigma * noise) / (1 + sigma**2).sqrt(), t.float(), context=hidden, y=y
            )
        weight = (5 * sigma**2).clamp(max=1)  # min-SNR, gamma 5
        error = (predicted.float() - noise).square()
        loss = (weight * error).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(0.999, (step + 10) / (step + 100))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        running = (
            0.98 * running + 0.02 * error.mean().item() if step > first else error.mean().item()
        )
        step += 1
        if step % 50 == 0:
            print(
                f"step {step} loss {running:.4f} "
                f"{(time.time() - start - spent) / (step - first):.2f} s/step",
                flush=True,
            )
        if step % 500 == 0:
            export()
        if args.steps and step - first >= args.steps:
            break
    export()


if __name__ == "__main__":
    main()
