"""What a step keeps is found without computing it, and decides what a run does."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lora2_core import Adapters, RankSettings, TrainSettings, attach
from lora2_core.host.training import frozen, memory_plan, memory_trial
from lora2_core.host.training.examples import collate
from lora2_core.host.training.gradient_checkpointing import Way, checkpointed, repeated_blocks
from lora2_core.host.training.kernel_shapes import Norm, torchs_attention
from lora2_core.host.training.loan import Loan, lent
from lora2_core.host.training.memory import out_of_memory
from lora2_core.host.training.memory_plan import Need, Wanted, plan, remedies, too_little
from lora2_core.host.training.memory_trial import Block, Trial, try_shapes
from lora2_core.host.training.objective import denoising_loss
from lora2_core.layers.targets import TargetSettings
from tests.host.examples import examples_of
from tests.host.flow_models import FAMILIES, build, pictures
from tests.host.test_real_shapes import built
from tests.tiers import fast

RANK = 4
# SD3's blocks call an attention of their own choice, which on a CPU is not torch's
MODELS = ["SDXL", "SD1.5", *(name for name in FAMILIES if name != "SD3")]


def model_and_data(name: str, dtype: torch.dtype):
    if name in FAMILIES:
        return build(name, dtype), pictures(name)
    facts = {"pooled_output": torch.zeros(1, 32)} if name == "SDXL" else {}
    return built(name, dtype), (
        [{"samples": torch.zeros(2, 4, 16, 16)}],
        [[[torch.zeros(1, 77, 64), facts]]],
    )


class NormsOfGpu(TorchFunctionMode):
    """Lets RMS norms keep what a GPU's kernel does; on a CPU they also keep a copy in fp32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.rms_norm, torch.rms_norm):
            return Norm.apply(args[0], args[2] if len(args) > 2 else (kwargs or {}).get("weight"))
        return func(*args, **(kwargs or {}))


def kept_bytes(inner, batch, adapters) -> int:
    """What autograd keeps of a real forward pass: all memory that is no weight, each once."""
    tensors = [*inner.parameters(), *inner.buffers()]
    tensors += [t for c in adapters.components.values() for t in (c.lora_up, c.lora_down)]
    weights, sizes = {t.untyped_storage().data_ptr() for t in tensors}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (where := tensor.untyped_storage().data_ptr()) not in weights:
            sizes[where] = tensor.untyped_storage().nbytes()
        return tensor

    latents, conditions = collate(batch)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, NormsOfGpu():
        options = {"optimized_attention_override": torchs_attention}
        sigma, noise = torch.ones(len(latents)), torch.zeros_like(latents)
        loss = denoising_loss(inner, latents, noise, sigma, conditions, options)
    del loss
    return sum(sizes.values())


def tried(loan: Loan, batch: list, layers: dict) -> tuple[Trial, Adapters]:
    """A trial without values, and adapters of the same ranks for a real pass."""
    ranks = dict.fromkeys(layers, RANK)
    trial = try_shapes([loan.inner], loan.inner, loan.frozen.of, [batch], layers, ranks, {})
    settings = RankSettings(mode="fixed", target_rank=RANK)
    return trial, attach(loan.inner, layers, settings, frozen=loan.frozen.of)


@pytest.mark.parametrize("dtype", fast((torch.float32, torch.bfloat16, torch.float16)))
@pytest.mark.parametrize("name", fast(MODELS, "SDXL", "Flux"))
def test_a_trial_without_values_keeps_what_a_real_pass_keeps(name, dtype):
    model, data = model_and_data(name, dtype)
    layers = TargetSettings(layers="attention").chosen(model.model)
    before = {k: (v.data_ptr(), v.dtype) for k, v in model.model.state_dict().items()}
    with torch.inference_mode(), lent(model) as loan:
        batch = examples_of(model, loan.inner, *data)
        trial, adapters = tried(loan, batch, layers)
        kept = kept_bytes(loan.inner, batch, adapters)
        adapters.detach()
        assert len(trial.blocks) == len(repeated_blocks(loan.inner, set(layers.values())))
    assert trial.outside + sum(block.kept for block in trial.blocks) == pytest.approx(kept, rel=0.1)
    cost = sum(c.cost for c in adapters.components.values())
    assert trial.gradients == dtype.itemsize * RANK * cost
    assert not any(module._forward_hooks for module in model.model.modules())
    assert before == {k: (v.data_ptr(), v.dtype) for k, v in model.model.state_dict().items()}


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ZeroDivisionError])
def test_a_model_that_cant_compute_without_values_has_no_trial(error, monkeypatch):
    """The host's attention, for one, may ask how much memory the device has."""

    def failing(*_):
        raise error

    monkeypatch.setattr(memory_trial, "shape_of_loss", failing)
    model, data = model_and_data("Flux", torch.float32)
    with torch.inference_mode(), lent(model) as loan:
        layers = TargetSettings(layers="attention").chosen(loan.inner)
        trial, adapters = tried(loan, examples_of(model, loan.inner, *data), layers)
        adapters.detach()
    assert trial is None


def test_checkpointed_blocks_keep_their_inputs():
    model, data = model_and_data("SDXL", torch.float32)
    layers = TargetSettings(layers="attention").chosen(model.model)
    with torch.inference_mode(), lent(model) as loan:
        batch = examples_of(model, loan.inner, *data)
        trial, adapters = tried(loan, batch, layers)
        way = Way(adapters.paths)
        with checkpointed(repeated_blocks(loan.inner, set(layers.values())), way):
            kept_bytes(loan.inner, batch, adapters)  # the first pass tries blocks on copies
            kept = kept_bytes(loan.inner, batch, adapters)
        adapters.detach()
    assert trial.outside + sum(block.inputs for block in trial.blocks) == pytest.approx(
        kept, rel=0.1
    )
    assert trial.peak(checkpointing=True) < trial.peak(checkpointing=False)


def test_a_model_that_needs_values_has_no_trial(monkeypatch):
    model, data = model_and_data("SDXL", torch.float32)
    layers = TargetSettings(layers="attention").chosen(model.model)
    inner = model.model
    monkeypatch.setattr(inner, "apply_model", lambda x, *_, **__: x * float(x.sum()))
    with torch.inference_mode(), lent(model) as loan:
        batch = examples_of(model, loan.inner, *data)
        assert (
            try_shapes(
                [inner], inner, loan.frozen.of, [batch], layers, dict.fromkeys(layers, RANK), {}
            )
            is None
        )


def wanted(rank: int = 192, target: int = 64, optimizer: str = "adamw", ema: float = 0) -> Wanted:
    """A run of about SDXL's size at 1024 pixels."""
    blocks = [Block(100_000_000, 40_000_000, 6_000_000 * rank // 64)] * 70
    trial = Trial(rank, 700_000_000, blocks, 1e6, 400_000_000 * rank // 64)
    training = TrainSettings(optimizer=optimizer, ema=ema)
    return Wanted(5_100_000_000, 93_000_000 * rank // 64, rank, target, trial, training)


GB = 1_000_000_000


def test_more_is_given_up_the_less_there_is():
    run = wanted()
    ways = [
        plan(run, gb * GB, "auto", lower_start=True) for gb in (24, 15, 14, 11.5, 9, 8, 5.2, 3.4)
    ]
    assert [way.checkpointing for way in ways] == [False, False, *[True] * 6]
    assert [way.offloaded > 0 for way in ways] == [*[False] * 4, True, False, True, True]
    assert [way.in_ram > 0 for way in ways] == [*[False] * 5, *[True] * 3]
    assert [way.start_rank for way in ways[:-1]] == [None, 96, None, *[96] * 4]
    assert all(way.fits for way in ways)
    assert 64 <= ways[-1].start_rank < 96
    assert plan(run, 5.2 * GB, "auto", lower_start=False).start_rank is None


@pytest.mark.parametrize(("choice", "on"), [("on", True), ("off", False), ("offload", True)])
def test_a_choice_of_checkpointing_stands(choice, on):
    assert all(
        plan(wanted(), gb * GB, choice, lower_start=True).checkpointing is on for gb in (100, 8)
    )


def test_what_is_needed_and_what_is_done_is_said():
    assert plan(wanted(), 8 * GB, "auto", lower_start=True).text == (
        "Needs about 10.8 of 8.0 GB of memory. 3.6 GB of the model's weights stay in RAM. "
        "Gradient checkpointing is on. Ranks begin at 96, so that they fit."
    )
    assert plan(wanted(), 100 * GB, "auto", lower_start=True).text.endswith(
        "of 100.0 GB of memory."
    )
    offloading = plan(wanted(), 9 * GB, "auto", lower_start=True).text
    assert "is on. 2.8 GB of what its blocks get lie in RAM." in offloading


def test_weights_in_ram_leave_room_for_gaps_and_for_those_that_are_fetched_ahead():
    some, none = (plan(wanted(), gb * GB, "on", lower_start=True) for gb in (8, 100))
    assert some.ahead == memory_plan.AHEAD * 8 * GB and none.ahead == 0
    assert some.beside == some.need.beside + memory_plan.GAPS * 8 * GB + some.ahead
    assert none.beside == none.need.beside
    # what is on the card beside fills it
    assert some.need.weights - some.in_ram + some.beside == pytest.approx(8 * GB, abs=2)


@pytest.mark.parametrize("optimizer", memory_plan.MOMENT_BYTES)
def test_moments_count(optimizer):
    run = wanted(optimizer=optimizer)
    parameters = 4 + memory_plan.MOMENT_BYTES[optimizer]
    assert run.need("on").adapter == parameters * run.parameters
    averaged = wanted(optimizer=optimizer, ema=0.9).need("on")
    assert averaged.adapter == (4 + parameters) * run.parameters


def test_an_optimizer_by_name_counts_as_adam_does():
    named = wanted(optimizer="torch.optim.RAdam").need("on")
    assert named == wanted(optimizer="adam").need("on")


def test_too_little_has_the_three_cheapest_remedies_with_their_figures():
    run = wanted()
    made = plan(run, 2 * GB, "off", lower_start=True)
    assert not made.fits
    text = too_little(run, made, batch_size=2)
    assert "checkpointing on (" in text and "batch_size 1 (" in text and "start_rank 32 (" in text
    assert text.count("GB)") == 3 and text.endswith(".")
    needs = [need.least for _, need in remedies(run, made, 2)]
    assert all(need < made.need.least for need in needs)


def test_gradients_fill_what_activations_leave():
    small = Trial(4, 0, [Block(10, 1, 100)] * 3, 0.0, 300)
    assert small.peak(checkpointing=False) == 300
    # 16-bit copies are there until the last gradient, which is when gradients become fp32
    half = Trial(4, 0, [Block(10, 1, 100)] * 3, 0.0, 300, folded=300, at_the_end=900)
    assert half.peak(checkpointing=False) == 900
    assert replace(half, outside=1000).peak(checkpointing=True) == 300 + 1000 + 300
    assert Trial(4, 5, [Block(10, 1, 2)] * 3, 0.0, 6).peak(checkpointing=False) == 35 + 5
    assert Trial(4, 5, [Block(10, 1, 2)] * 3, 0.0, 6).peak(checkpointing=True) == 5 + (1 + 15) + 4
    many = Trial(4, 5, [Block(10, 5, 0)] * 9, 0.0, 6)
    assert many.peak(checkpointing=True, offload=False) == 5 + (9 * 5 + 15) + 6
    assert many.peak(checkpointing=True, offload=True) == 5 + (4 * 5 + 15) + 6
    assert small.scaled(2).gradients == 600
    assert Need(100, 10, 10).all > Need(100, 10, 10).least


def test_the_host_keeps_the_room_that_a_run_needs(monkeypatch):
    import comfy.model_management as management

    asked, real = [], management.load_models_gpu

    def load(models, memory_required=0, **options):
        asked.append(memory_required)
        return real(models, memory_required=memory_required, **options)

    monkeypatch.setattr(management, "load_models_gpu", load)
    streams = management.NUM_STREAMS
    model, _ = model_and_data("SDXL", torch.float32)
    with torch.inference_mode(), lent(model) as loan:
        loan.leave_room(123, 45)
        assert loan.room == 45
        assert management.NUM_STREAMS == 0
        with loan.paused():
            assert streams == management.NUM_STREAMS
    assert asked == [0, 123, 123] and streams == management.NUM_STREAMS


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 MiB",
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "HIP out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    ],
)
def test_every_devices_words_for_too_little_memory_are_known(words):
    assert out_of_memory(RuntimeError(words))
    assert not out_of_memory(ValueError(words))


@pytest.mark.parametrize(
    "words", ["mat1 and mat2 shapes cannot be multiplied", "CUDA error: device-side assert", ""]
)
def test_other_errors_are_not_taken_for_it(words):
    assert not out_of_memory(RuntimeError(words))


def test_a_layer_that_is_computed_again_holds_nothing_that_autograd_gave_away(monkeypatch):
    monkeypatch.setattr(frozen, "in_ram", lambda module, x: True)
    dropped = torch.autograd.graph.saved_tensors_hooks(lambda t: None, lambda _: values)
    with torch.inference_mode(False), torch.enable_grad():
        layer = frozen.Recomputed(torch.nn.LayerNorm(4))
        x = torch.randn(2, 4, requires_grad=True) * 1
        held, values = weakref.ref(x), x.detach().clone()
        with dropped:
            y = layer(x)
        del x
    assert held() is None and y.grad_fn is not None
