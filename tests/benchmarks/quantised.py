"""An adapter on a quantised model, on a card where there is one: its loss and gradients against
those on a dequantised copy of the model, and what a step computes against what ComfyUI computes
when it makes pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import Tensor, nn
from torch.nn import functional as F

from lora2_core import RankSettings, attach
from lora2_core.host.training.examples import collate
from lora2_core.host.training.loan import Loan, lent
from lora2_core.host.training.objective import Draw, loss_of
from tests.host.examples import examples_of
from tests.host.flow_models import FAMILIES, FLUX, build, pictures
from tests.layers.test_layer import fill
from tests.null_gpu.table import Table, markdown

DTYPE = torch.bfloat16  # in which cards compute these models
WIDE = {"hidden_size": 512, "num_heads": 4, "axes_dim": [32, 48, 48]}  # what all formats divide
MODEL = replace(FAMILIES["Flux"], shape=FLUX | WIDE)
LAYERS = r"blocks\.\d+\."  # that are quantised, and trained
SIGMA = 0.5
BLOCK = 32  # values with one scale, in GGUF's Q8_0 and Q4_0
Made = tuple[nn.Module, Tensor]  # a layer, and the weight that it stands for


class Blocks(comfy.ops.manual_cast.Linear):
    """Keeps its weight in blocks, as the layers of the pack that reads GGUF files do: it is
    dequantised in every call.
    """

    def cast_bias_weight(self, input=None, dtype=None, device=None, bias_dtype=None):
        values = self.weight.to(input.device).float() * self.scales.to(input.device)
        bias = None if self.bias is None else self.bias.to(input)
        return values.view(self.out_features, -1).to(input.dtype), bias

    def forward_comfy_cast_weights(self, input):
        return F.linear(input, *self.cast_bias_weight(input))


def in_blocks(bits: int) -> Callable[[nn.Linear], Made]:
    """Returns what makes a layer with so many bits a value."""

    def make(layer: nn.Linear) -> Made:
        made, most = Blocks(layer.in_features, layer.out_features), 2 ** (bits - 1) - 1
        values = layer.weight.detach().float().view(-1, BLOCK)
        made.scales = (values.abs().amax(1, keepdim=True) / most).half().float()
        rounded = (values / made.scales).round().clamp(-most, most).to(torch.int8)
        made.weight = nn.Parameter(rounded, requires_grad=False)
        return made, made.cast_bias_weight(layer.weight)[0]

    return make


def of_the_host(
    name: str, *, smoothed: bool = False, **options: object
) -> Callable[[nn.Linear], Made]:
    """Returns what makes a layer in one of the host's formats. smoothed: its inputs are multiplied
    by a scale first.
    """
    kind = comfy.ops.mixed_precision_ops({}, DTYPE).Linear

    def make(layer: nn.Linear) -> Made:
        layout = QUANT_ALGOS[name]["comfy_tensor_layout"]  # older hosts lack some
        made = kind(layer.in_features, layer.out_features, dtype=DTYPE)
        scale = torch.linspace(0.5, 2, layer.in_features, dtype=DTYPE)
        weight = layer.weight.detach() / scale if smoothed else layer.weight.detach()
        values = QuantizedTensor.from_float(weight, layout, **options)
        made.weight = nn.Parameter(values, requires_grad=False)
        made.quant_format, made.layout_type = name, layout
        if smoothed:
            made.pre_quant_scale = nn.Parameter(scale, requires_grad=False)
        plain = values.dequantize()
        return made, plain * scale if smoothed else plain

    return make


def stored(kind: type, dtype: torch.dtype) -> Callable[[nn.Linear], Made]:
    """Returns what makes a layer of this class whose weight is of this dtype, without a scale."""

    def make(layer: nn.Linear) -> Made:
        made = kind(layer.in_features, layer.out_features)
        made.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        return made, made.weight.to(DTYPE)

    return make


FOUND = "recalculate"  # the host's word for a scale that is found from the values
FP8 = torch.float8_e4m3fn
KINDS: dict[str, Callable[[nn.Linear], Made]] = {
    "fp32, cast to bf16 (what rounding does)": stored(comfy.ops.manual_cast.Linear, torch.float32),
    "fp8 scaled": of_the_host("float8_e4m3fn", scale=FOUND),
    "fp8 e5m2 scaled": of_the_host("float8_e5m2", scale=FOUND),
    "mxfp8": of_the_host("mxfp8"),
    "nvfp4": of_the_host("nvfp4", scale=FOUND),
    "nvfp4, smoothed inputs": of_the_host("nvfp4", smoothed=True, scale=FOUND),
    "int8, a scale a tensor": of_the_host("int8_tensorwise"),
    "int8, a scale a row": of_the_host("int8_tensorwise", per_channel=True),
    "int8, rotated": of_the_host("int8_tensorwise", per_channel=True, convrot=True),
    "int4, rotated": of_the_host("convrot_w4a4"),
    "fp8 without a scale": stored(comfy.ops.manual_cast.Linear, FP8),
    "fp8 without a scale, --fast": stored(comfy.ops.fp8_ops.Linear, FP8),
    "GGUF Q8": in_blocks(8),
    "GGUF Q4": in_blocks(4),
}


def with_layers(make: Callable[[nn.Linear], Made], *, plain: bool) -> ModelPatcher:
    """Returns the model with its layers made so; plain: with the weights that these stand for."""
    patcher = build(MODEL, DTYPE)
    inner = patcher.model.diffusion_model
    for name, layer in list(inner.named_modules()):
        if not isinstance(layer, nn.Linear) or "blocks." not in name:
            continue
        made, weight = make(layer)
        if plain:
            layer.weight.data = weight.to(DTYPE)
            continue
        made.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), False)
        owner, _, leaf = name.rpartition(".")
        setattr(inner.get_submodule(owner), leaf, made)
    return patcher


@dataclass
class Step:
    """Holds a loss, the gradients of all lora_up and lora_down, and what the model predicts."""

    loss: float
    ups: Tensor
    downs: Tensor
    predicted: Tensor


def draw_of(patcher: ModelPatcher, loan: Loan) -> Draw:
    """Returns a batch that is always the same."""
    examples = examples_of(patcher, loan.inner, *pictures("Flux"))
    noise = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    device = patcher.load_device
    return Draw.of(loan.inner, examples, noise.to(device), torch.full((2,), SIGMA, device=device))


def predicted(inner, draw: Draw) -> Tensor:
    """Returns the velocity that the model predicts, as it computes now."""
    latents, conditions = collate(draw.examples)
    x = inner.model_sampling.noise_scaling(draw.sigma, draw.noise.clone(), latents)
    with torch.no_grad():
        denoised = inner.apply_model(x, draw.sigma, transformer_options={}, **conditions)
    return (x - denoised) / SIGMA


def step_on(patcher: ModelPatcher, *, straight_through: bool = False) -> Step:
    """Returns what a step computes on a model, and what the model predicts without an adapter."""
    with lent(patcher) as loan:
        if straight_through:
            loan.frozen.straight_through()
        draw = draw_of(patcher, loan)
        without = predicted(loan.inner, draw)
        settings = RankSettings(mode="fixed", target_rank=8)
        device = patcher.load_device
        adapters = attach(loan.inner, LAYERS, settings, device=device, frozen=loan.frozen.of)
        fill(adapters, 0.02)
        loss = loss_of(loan.inner, draw, loan.attention.options({}))
        loss.backward()
        paths = list(adapters.components.values())
        ups = torch.cat([c.lora_up.grad.flatten() for c in paths])
        downs = torch.cat([c.lora_down.grad.flatten() for c in paths])
        adapters.detach()
    return Step(float(loss.detach()), ups, downs, without)


def sampled(patcher: ModelPatcher) -> Tensor:
    """Returns what the model predicts as the host computes it when it makes pictures."""
    with lent(patcher) as loan:
        draw = draw_of(patcher, loan)
        loan.frozen.remove()
        return predicted(loan.inner, draw)


def apart(found: Tensor, wanted: Tensor) -> float:
    """Returns the relative difference of two tensors."""
    return float((found - wanted).norm() / wanted.norm())


def row_of(make: Callable[[nn.Linear], Made]) -> dict[str, list[float]]:
    """Returns, for either way to compute, how far gradients of lora_up and lora_down and the loss
    are from the dequantised copy's, and the prediction from that of sampling.
    """
    wanted = step_on(with_layers(make, plain=True))
    model = with_layers(make, plain=False)
    host, found = sampled(model), {}
    for name, straight in (("dequantised", False), ("straight through", True)):
        step = step_on(model, straight_through=straight)
        found[name] = [
            apart(step.ups, wanted.ups),
            apart(step.downs, wanted.downs),
            abs(step.loss - wanted.loss) / wanted.loss,
            apart(step.predicted, host),
        ]
    return found


def percent(share: float) -> str:
    """Returns a share in percent."""
    return "0" if share == 0 else f"{100 * share:.2g} %"


def table() -> Table:
    """Returns the table of all kinds that the host can make here."""
    columns = ["lora_up", "lora_down", "loss", "from sampling"]
    head = ["layers", *columns, *(f"straight_through: {c}" for c in columns)]
    rows = [head]
    for name, make in KINDS.items():
        try:
            found = row_of(make)
        except (RuntimeError, NotImplementedError, KeyError) as error:
            rows.append([name, f"not here: {error}"[:60], *[""] * (len(head) - 2)])
            continue
        rows.append([name, *(percent(value) for each in found.values() for value in each)])
    return rows


def main() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        print("An adapter on a quantised model, against one on a dequantised copy:")
        print(markdown(table()))


if __name__ == "__main__":
    main()
