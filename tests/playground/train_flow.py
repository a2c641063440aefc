"""Trains the second base, the flow transformer, on the playground's pictures and captions.

`nox -s train-flow` runs it: a quarter of an hour of one core. It keeps the transformer, a sheet of
samples and a checkpoint in the folder; started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lora2_core.host.playground import build_clip, build_vae
from lora2_core.playground import asset
from lora2_core.playground.subjects import BACKGROUNDS, STYLES, caption
from lora2_core.playground.tokenizer import RARE_TOKENS
from tests.playground.evaluate import Base, contact_sheet
from tests.playground.flow import FILE, SHAPE, build_model, load_flow, save_flow
from tests.playground.train import text_features

EMPTY, RENAMED = 0.1, 0.1  # shares of captions that are empty, or name the label by a rare token
SAVED_EVERY = 500  # steps


def initialise(model: nn.Module) -> None:
    """Fills the host's empty weights as its class was first trained: matrices by Xavier, norms of
    one, and zero where a block's output is scaled, so that it begins as the identity.
    """
    for name, layer in model.named_modules():
        if hasattr(layer, "in_features") or isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))
            nn.init.zeros_(layer.bias)
            if "adaLN_modulation" in name or name == "final_layer.linear":
                nn.init.zeros_(layer.weight)
        elif getattr(layer, "weight", None) is not None:
            nn.init.ones_(layer.weight)
        if "embedder.mlp" in name and hasattr(layer, "in_features"):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


class Data:
    """Holds every base picture on every background as a latent, and the text features of its
    caption, of the caption with each rare name, and of no caption.
    """

    def __init__(self, folder: Path, parts: asset.Asset):
        base = Base(folder)
        self.clip = build_clip(parts.vocabulary)
        self.clip.cond_stage_model.clip_l.transformer.load_state_dict(parts.text)
        vae = build_vae(parts.vae).first_stage_model
        captions = [caption(*label) for label in base.labels]
        self.places = [(STYLES.index(s), list(BACKGROUNDS).index(b)) for _, s, b in base.labels]
        rare = [
            caption(f"<rare {i}>".replace(" ", "\0"), style, background)
            for style in STYLES
            for background in BACKGROUNDS
            for i in range(RARE_TOKENS)
        ]
        self.first_rare, self.empty = len(captions), len(captions) + len(rare)
        with torch.no_grad():
            images = base.images()
            self.latents = torch.cat([vae.encode(x) for x in images.split(256)])
            self.latents *= parts.latent_scale
            self.hidden, self.pooled = self.features([*captions, *rare, ""])

    def features(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Returns hidden states [N, length, width] and pooled vectors [N, width]."""
        tokenizer = self.clip.tokenizer.clip_l
        tokens = [
            [t for t, _ in tokenizer.tokenize_with_weights(text)[0]]
            for text in (t.replace("\0", " ") for t in texts)
        ]
        parts = [text_features(self.clip, tokens[i : i + 256]) for i in range(0, len(tokens), 256)]
        return torch.cat([h for h, _ in parts]), torch.cat([p for _, p in parts])

    def texts_of(self, index: np.ndarray, rng: np.random.RandomState) -> list[int]:
        """Returns the rows of the text features that go with pictures."""
        found = []
        for i in index:
            chance = rng.rand()
            style, background = self.places[i]
            row = (style * len(BACKGROUNDS) + background) * RARE_TOKENS + rng.randint(RARE_TOKENS)
            if chance < RENAMED:
                found.append(self.first_rare + row)
            else:
                found.append(self.empty if chance > 1 - EMPTY else int(i))
        return found


class Training:
    """Holds the transformer, its optimizer and a running average of its weights."""

    def __init__(self, data: Data, parts: asset.Asset, args: argparse.Namespace):
        self.data, self.args, self.step = data, args, 0
        self.model = build_model(parts).diffusion_model
        initialise(self.model)
        self.model.requires_grad_(True).train()
        self.parameters = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )

    @property
    def path(self) -> Path:
        return self.args.folder / "flow.pt"

    def resume(self) -> None:
        """Goes on from the checkpoint where there is one."""
        if not self.path.exists():
            return
        saved = torch.load(self.path, weights_only=True)
        for ours, theirs in ((self.parameters, "parameters"), (self.average, "average")):
            for own, value in zip(ours, saved[theirs], strict=True):
                own.data.copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    def save(self) -> None:
        """Writes the checkpoint, and the averaged transformer."""
        values = [p.detach() for p in self.parameters]
        state = {"parameters": values, "average": self.average, "step": self.step}
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, self.path)
        names = [name for name, _ in self.model.named_parameters()]
        weights = dict(zip(names, self.average, strict=True))
        save_flow(self.args.folder / FILE, weights, SHAPE)

    def rate(self) -> float:
        """Returns the learning rate of this step: a short rise, then half a cosine."""
        done = self.step / self.args.steps
        return self.args.rate * min(1, (self.step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * done))

    def update(self) -> float:
        """Does one step; returns its loss. Noise and pictures follow from the step's number."""
        rng, torch_rng = np.random.RandomState(self.step), torch.Generator().manual_seed(self.step)
        index = rng.randint(len(self.data.latents), size=self.args.batch)
        texts = self.data.texts_of(index, rng)
        x = self.data.latents[index]
        noise = torch.randn(x.shape, generator=torch_rng)
        t = torch.sigmoid(torch.randn(len(x), generator=torch_rng))
        part = t.view(-1, 1, 1, 1)
        predicted = self.model(
            (1 - part) * x + part * noise, 1000 * t,
            context=self.data.hidden[texts], y=self.data.pooled[texts],
        )  # fmt: skip
        loss = (predicted - (noise - x)).square().mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(0.999, (self.step + 10) / (self.step + 100))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1
        return loss.item()

    def run(self) -> None:
        """Trains to the last step, with a line every 50 steps."""
        size = sum(p.numel() for p in self.parameters)
        print(f"{size / 1e6:.2f} M parameters, {len(self.data.latents)} pictures", flush=True)
        losses, start, first = [], time.time(), self.step
        while self.step < self.args.steps:
            losses.append(self.update())
            if self.step % 50 == 0:
                each = (time.time() - start) / (self.step - first)
                mean = float(np.mean(losses[-200:]))
                print(f"step {self.step} loss {mean:.4f} {each:.2f} s/step", flush=True)
            if self.step % SAVED_EVERY == 0:
                self.save()
        self.save()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--steps", type=int, default=2600)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--rate", type=float, default=2e-3)
    args = options.parse_args()
    torch.manual_seed(0)
    parts = asset.load()
    training = Training(Data(args.folder, parts), parts, args)
    training.resume()
    training.run()
    contact_sheet(*load_flow(args.folder / FILE, parts), args.folder / "flow_sheet.png")
    print(f"samples: {args.folder / 'flow_sheet.png'}")


if __name__ == "__main__":
    main()
