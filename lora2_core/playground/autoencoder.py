"""A small convolutional autoencoder: images [B, 3, 4h, 4w] in [-1, 1] <-> latents [B, 8, h, w].

Plain torch, without normalisation layers, so that flat colours stay exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 8
DOWNSCALE = 4


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), of the shape of x."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Autoencoder(nn.Module):
    """Two levels of pixel (un)shuffle with residual blocks; the host's VAE object calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, 64, 3, padding=1), ResidualBlock(64),
            nn.PixelUnshuffle(2), nn.Conv2d(256, 96, 1), ResidualBlock(96),
            nn.SiLU(), nn.Conv2d(96, LATENT_CHANNELS, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 128, 3, padding=1), ResidualBlock(128), ResidualBlock(128),
            nn.Conv2d(128, 256, 1), nn.PixelShuffle(2), ResidualBlock(64), ResidualBlock(64),
            nn.SiLU(), nn.Conv2d(64, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def encode(self, images: Tensor) -> Tensor:
        """Returns the latents [B, 8, h, w] of images [B, 3, 4h, 4w] in [-1, 1]."""
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the images [B, 3, 4h, 4w], in about [-1, 1], of latents [B, 8, h, w]."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def psnr(images: Tensor, decoded: Tensor) -> float:
    """Returns the peak signal-to-noise ratio of decoded images in [-1, 1], in dB."""
    return (10 * torch.log10(4 / F.mse_loss(decoded.detach().clamp(-1, 1), images))).item()
