"""Figures 4 and 5: what matches no layer of the model, and our loader against the host's own."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from random import Random

import comfy.lora
import safetensors.torch
import torch

import lora2_core as lora2
from lora2_core.host.apply import as_patch, resolve, size_at
from lora2_core.host.naming import weight_keys
from lora2_core.host.weights import shapes_in
from tests.reliability.figures import Figure
from tests.reliability.good import DTYPES, KINDS, NAMINGS, tensors_of

HOSTS_OWN = [name for name in NAMINGS if name not in ("diffusers 1", "PEFT default", "host")]


class Heard(logging.Handler):
    """Keeps what the log says."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def unmatched_faults(model, count: int, seed: int) -> list[str]:
    """Adapters of which no layer, or some, are in the model: an error, or a warning with counts."""
    random, wrong, heard = Random(seed), [], Heard()
    weights, named = model.model.state_dict(), weight_keys(model)
    keys = [k for k, v in named.items() if isinstance(k, str) and v in weights]
    missing = [k for k, v in named.items() if isinstance(v, str) and v not in weights]
    log = logging.getLogger("lora2")
    log.addHandler(heard)
    log.propagate = False
    try:
        for number in range(count):
            matching = random.sample(keys, random.choice([0, 0, 1, 3]))
            layers = {f"lora_unet_foreign_{i}": (8, 8) for i in range(random.randint(1, 5))}
            layers |= {name: (8, 8) for name in random.sample(missing, random.choice([0, 1]))}
            for key in matching:
                shape = weights[named[key]].shape
                layers[key] = shape[0], shape[1:].numel()
            lora = lora2.RankedLora(
                {
                    n: lora2.LoraLayer(torch.ones(a, 1), torch.ones(1, b))
                    for n, (a, b) in layers.items()
                }
            )
            heard.lines.clear()
            try:
                found = len(resolve(lora, model))
                told = f"{found} of the adapter's {len(layers)} layers"
                fine = matching and any(told in line for line in heard.lines)
            except ValueError as error:
                fine = not matching and f"None of the adapter's {len(layers)} layers" in str(error)
            if not fine:
                wrong.append(f"{number}: {len(matching)} of {len(layers)} match: {heard.lines}")
    finally:
        log.removeHandler(heard)
        log.propagate = True
    return wrong


def misfit_faults(model, count: int, seed: int) -> list[str]:
    """Pairs for weights, and for rows of weights, of another size: an error with both sizes. The
    host's own loader takes some of them in silence.
    """
    random, wrong, weights = Random(seed), [], shapes_in(model.model)
    named = weight_keys(model)
    slices = [n for n, k in named.items() if not isinstance(k, str) and k[1] and k[0] in weights]
    whole = [n for n, k in named.items() if isinstance(k, str) and k in weights]
    for number in range(count):
        name = random.choice(slices if slices and number % 2 else whole)
        rows, columns = size_at(named[name], weights)
        apart = random.choice(
            [(1, 0), (0, 1), (rows, 0), (-1, 0), (0, -1), (columns, -columns + 1)]
        )
        size = rows + apart[0], columns + apart[1]
        if min(size) < 1:
            continue
        layer = lora2.LoraLayer(torch.ones(size[0], 1), torch.ones(1, size[1]))
        try:
            resolve(lora2.RankedLora({name: layer}), model)
            wrong.append(f"{name}: {size} taken for {rows} x {columns}")
        except ValueError as error:
            said = f"a weight of {size[0]} x {size[1]}, but this model's is {rows} x {columns}"
            if said not in str(error):
                wrong.append(f"{name}: {error}")
    return wrong


def figure_4(model, fused, count: int, seed: int) -> Figure:
    """fused: a model with weights of which files have the rows of q, k and v apart."""
    wrong = unmatched_faults(model, count, seed)
    misfits = misfit_faults(model, count, seed) + misfit_faults(fused, count, seed)
    for fault in (wrong + misfits)[:10]:
        print(f"  {fault}")
    measured = f"{count} adapters that match no layer or some: {len(wrong)} without an error or "
    measured += f"counts; {2 * count} for weights or slices of another size: {len(misfits)} taken; "
    measured += "non-finite alpha and weights are classes of figure 1"
    return Figure(4, measured, not (wrong or misfits) and count >= 200)


def merged(adapters: dict, weight: torch.Tensor) -> torch.Tensor:
    """A weight with an adapter added by the host."""
    (patch,) = adapters
    return comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight.clone(), "weight")


def difference(path: Path, random: Random, dtype: torch.dtype) -> float:
    """The most that our loader and the host's own differ on a file: of the largest value in fp32,
    in units of the last place in bf16.
    """
    ours = lora2.load(path)
    tensors = safetensors.torch.load_file(path)
    theirs = comfy.lora.load_lora(tensors, {name: name for name in ours.layers}, log_missing=False)
    if len(theirs) != len(ours.layers):
        raise RuntimeError(f"the host read {len(theirs)} of {len(ours.layers)} layers of {path}")
    most = 0.0
    for name, layer in ours.layers.items():
        generator = torch.Generator().manual_seed(random.randrange(2**31))
        shape = layer.delta().shape
        weight = torch.randn(shape, generator=generator).to(dtype)
        mine, other = (merged([p], weight) for p in (as_patch(layer), theirs[name]))
        if dtype == torch.bfloat16:
            steps = (bits_in_order(mine) - bits_in_order(other)).abs().max()
            most = max(most, float(steps))
        else:
            most = max(most, float((mine - other).abs().max() / other.abs().max()))
    return most


def bits_in_order(values: torch.Tensor) -> torch.Tensor:
    """bf16 as whole numbers of which neighbours are one apart."""
    bits = values.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def differences(count: int, seed: int) -> dict[torch.dtype, float]:
    """The most over random adapters, onto fp32 and bf16 weights in turn."""
    random, most = Random(seed), {torch.float32: 0.0, torch.bfloat16: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        for number in range(count):
            naming, kind = random.choice(HOSTS_OWN), random.choice(KINDS)
            if kind == "mid" and NAMINGS[naming][1] != ".lora_up.weight":
                kind = "linear"
            alpha = random.choice([None, "rank", random.uniform(0.1, 8)])
            tensors = tensors_of(
                naming, kind, random.choice(DTYPES), alpha, random.randrange(10**6)
            )
            safetensors.torch.save_file(tensors, path)
            dtype = (torch.float32, torch.bfloat16)[number % 2]
            most[dtype] = max(most[dtype], difference(path, random, dtype))
    return most


def figure_5(count: int, seed: int) -> Figure:
    most = differences(count, seed)
    single, half = most[torch.float32], most[torch.bfloat16]
    measured = f"{count} random adapters against the host's own loader: fp32 {single:.1e} of the "
    measured += f"largest value, bf16 {half:.0f} ulp at most"
    return Figure(5, measured, single <= 1e-6 and half <= 1 and count >= 1000)
