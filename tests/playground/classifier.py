"""A small classifier of label, style and background, trained on the playground's own pictures: the
judge.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Judge(nn.Module):
    """Images [N, 3, 32, 32] in [-1, 1] to the logits of label, style and background."""

    def __init__(self, sizes: tuple[int, int, int]):
        super().__init__()
        layers, width = [], 3
        for channels in (32, 64, 128):
            layers += [
                nn.Conv2d(width, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
                nn.SiLU(),
                nn.MaxPool2d(2),
            ]
            width = channels
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(128 * 16, 256), nn.SiLU(), nn.Dropout(0.2)
        )
        self.heads = nn.ModuleList(nn.Linear(256, size) for size in sizes)

    def forward(self, images: Tensor) -> list[Tensor]:
        hidden = self.body(images)
        return [head(hidden) for head in self.heads]


def disturb(images: Tensor) -> Tensor:
    """Shifts by up to two pixels and noise, so that the judge looks at shapes rather than at single
    pixels.
    """
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    shifted = F.pad(images, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 34 + dy, 2 + dx : 34 + dx]
    return shifted + torch.rand(len(images), 1, 1, 1) * 0.2 * torch.randn_like(images)


def train_judge(images: Tensor, targets: Tensor, path: Path, steps: int = 700) -> Judge:
    """Trained once and kept in `path`; targets [N, 3] are class numbers."""
    torch.manual_seed(0)
    judge = Judge(tuple(int(n) + 1 for n in targets.max(0).values))
    if path.exists():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        picks = torch.randint(len(images), (256,))
        logits = judge(disturb(images[picks]))
        loss = sum(F.cross_entropy(out, targets[picks, i]) for i, out in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"judge step {step + 1} loss {loss.item():.3f}", flush=True)
    torch.save(judge.state_dict(), path)
    return judge.eval()


@torch.no_grad()
def judged(judge: Judge, images: Tensor, targets: Tensor) -> list[float]:
    """Share of label, style, background and of all three that are recognised."""
    right = torch.stack([out.argmax(1) for out in judge(images)], 1) == targets
    return [*right.float().mean(0).tolist(), right.all(1).float().mean().item()]
