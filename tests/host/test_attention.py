"""Attention has gradients while a model is on loan, however the host was started: with kernels that
behave like SageAttention's and FlashAttention's, in the host's own wrappers.
"""

import re
import sys

import comfy.clip_model
import comfy.ldm.modules.attention as host
import comfy.model_management
import pytest
import torch
from torch.nn import functional as F

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training.attention import NAMES, OVERRIDE, AttentionWithGradients
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.loan import lent
from lora2_core.host.training.run import train_on
from lora2_core.playground import subjects
from tests.host.kept import quiet
from tests.host.killed import FIELDS
from tests.tiers import each_once, fast

from .flow_models import FAMILIES, build, pictures


def sage(q, k, v, tensor_layout="HND", sm_scale=None, attn_mask=None, **_):
    """Values without a graph, as a kernel outside of torch gives them."""
    q, k, v = (t.detach() for t in (q, k, v))
    if tensor_layout == "NHD":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=sm_scale)
    return out.transpose(1, 2) if tensor_layout == "NHD" else out


def flash(q, k, v, dropout_p=0.0, causal=False, softmax_scale=None):
    """The host makes an operator of it that has no formula for its backward pass."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale)
    return out.transpose(1, 2).contiguous()


BACK_ENDS = {"sage": "attention_sage", "flash": "attention_flash", "torch": "attention_pytorch"}


def bindings() -> dict[tuple[str, str], object]:
    """Every module's own name for the host's attention."""
    return {
        (module.__name__, name): vars(module)[name]
        for module in list(sys.modules.values())
        for name in NAMES
        if name in (getattr(module, "__dict__", None) or {})
    }


@pytest.fixture
def started(monkeypatch):
    """Makes the host as it is when it was started with this attention."""

    def start(back_end: str) -> None:
        monkeypatch.setattr(host, "sageattn", sage, raising=False)
        monkeypatch.setattr(host, "flash_attn_func", flash, raising=False)
        attention = getattr(host, BACK_ENDS[back_end])
        for module, name in bindings():
            monkeypatch.setattr(sys.modules[module], name, attention)
        anywhere = lambda *_, **__: host.optimized_attention  # noqa: E731
        monkeypatch.setattr(comfy.clip_model, "optimized_attention_for_device", anywhere)

    return start


def settings(checkpointing: str = "off", mode: str = "fixed") -> Choices:
    rank = RankSettings(mode=mode, target_rank=4, max_rank=8)
    return Choices(rank, TrainSettings(2, 1e-2), 2, checkpointing=checkpointing)


def never_learned(lora) -> list[str]:
    return [name for name, layer in lora.layers.items() if not bool(layer.up.abs().sum() > 0)]


@pytest.mark.parametrize("back_end", ["sage", "flash"])
@pytest.mark.parametrize("name", fast(list(FAMILIES), "Flux", "SD3", "Wan 2.1"))
def test_flow_models_learn_as_with_torchs_attention(name, back_end, started):
    model, data = build(name), pictures(name)
    started("torch")
    wanted = train_on(model, *data, settings(), quiet)
    started(back_end)
    before = bindings()
    out = train_on(model, *data, settings(), quiet)
    assert bindings() == before
    assert out.stopped_by is None and out.losses == wanted.losses
    idle = FAMILIES[name].idle
    assert all(re.search(idle, layer) for layer in never_learned(out.lora))


@pytest.mark.parametrize(
    ("back_end", "checkpointing", "mode"),
    each_once(["sage", "flash"], ["off", "on"], ["fixed", "paper", "adaptive"]),
)
def test_the_unet_and_the_text_encoder_learn(playground, started, back_end, checkpointing, mode):
    fields = FIELDS | {"steps": 3, "targets": "attn", "checkpointing": checkpointing, "mode": mode}
    fields |= {"clip": playground.clip, "captions": list(subjects.examples("owl", 4)[1])}
    data = playground.model, playground.latents, playground.positive
    started("torch")
    wanted = train_on(*data, Choices.of(fields), quiet)
    started(back_end)
    out = train_on(*data, Choices.of(fields), quiet)
    assert out.stopped_by is None and out.losses == wanted.losses
    given_up = [n for n, layer in wanted.lora.layers.items() if layer.rank == 0]
    assert len(given_up) < len(wanted.lora.layers) // 8
    assert never_learned(out.lora) == given_up
    assert any(name.startswith("lora_te") for name in out.lora.layers)


def test_without_it_layers_would_never_learn(playground, started, monkeypatch):
    """The tests above prove nothing unless the stand-in does what the kernel does."""
    monkeypatch.setattr(AttentionWithGradients, "bound", lambda self, func: func)
    monkeypatch.setattr(AttentionWithGradients, "options", lambda self, options: dict(options))
    data = playground.model, playground.latents, playground.positive
    started("sage")
    out = train_on(*data, settings(), quiet)
    assert len(never_learned(out.lora)) == 3 * len(out.lora.layers) // 4
    started("flash")
    with pytest.raises(RuntimeError, match="no autograd formula"):
        train_on(*data, settings(), quiet)


def q_k_v(tokens: int = 5) -> list[torch.Tensor]:
    return [torch.randn(1, 2, tokens, 4, requires_grad=True) for _ in range(3)]


@pytest.fixture
def gradients():
    with torch.inference_mode(False), torch.enable_grad():
        yield


def test_an_override_of_the_users_is_kept_where_it_has_gradients(gradients):
    seen = []

    def doubled(func, *args, **named):
        seen.append(func)
        return 2 * func(*args, **named)

    options = AttentionWithGradients().options({OVERRIDE: doubled, "other": 1})
    tensors = q_k_v()
    named = {"skip_reshape": True, "transformer_options": options}
    out = host.attention_pytorch(*tensors, 2, **named)
    plain = host.attention_pytorch(*tensors, 2, skip_reshape=True)
    assert torch.equal(out, 2 * plain) and options["other"] == 1 and seen


def test_an_override_of_the_users_is_kept_over_torchs_where_the_hosts_has_none(started, gradients):
    started("sage")
    options = AttentionWithGradients().options({OVERRIDE: lambda f, *a, **k: 2 * f(*a, **k)})
    tensors = q_k_v()
    named = {"skip_reshape": True, "transformer_options": options}
    out = host.optimized_attention(*tensors, 2, **named)
    assert torch.equal(out, 2 * host.attention_pytorch(*tensors, 2, skip_reshape=True))


@pytest.mark.parametrize("kernel", [host.attention_sage, host.attention_flash])
def test_an_override_without_gradients_is_left_out(started, gradients, kernel):
    """As other packs choose an attention for one model; also for some inputs only."""
    started("torch")

    def long_ones(func, q, *args, **named):
        return (kernel if q.shape[2] > 8 else func)(q, *args, **named)

    options = AttentionWithGradients().options({OVERRIDE: long_ones})
    for tokens in (5, 9, 5, 9):
        tensors = q_k_v(tokens)
        named = {"skip_reshape": True, "transformer_options": options}
        out = host.optimized_attention(*tensors, 2, **named)
        assert torch.equal(out, host.attention_pytorch(*tensors, 2, skip_reshape=True))
        assert all(g is not None for g in torch.autograd.grad(out.sum(), tensors))


def test_every_kind_of_inputs_is_tried_once(gradients):
    calls = []

    @host.wrap_attn
    def counted(*args, **named):
        calls.append(args[0].shape[2])
        return host.attention_pytorch(*args, **named)

    attention = AttentionWithGradients().bound(counted)
    for tokens in (5, 5, 9, 5, 9):
        attention(*q_k_v(tokens), 2, skip_reshape=True)
    assert sorted(calls) == [5] * 4 + [9] * 3


def test_too_little_memory_is_no_missing_gradient(gradients):
    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise torch.OutOfMemoryError("CUDA out of memory")

    attention = AttentionWithGradients().bound(lambda q, k, v, heads: Full.apply(q + k + v))
    with pytest.raises(torch.OutOfMemoryError):
        attention(*q_k_v(), 2)


SWITCHES = [
    (comfy.model_management, "in_training", True),
    (comfy.model_management, "training_fp8_bwd", False),
    (comfy.model_management, "NUM_STREAMS", 0),
    (torch.backends.cuda.matmul, "allow_fp16_accumulation", False),
]


@pytest.mark.parametrize("ends", ["well", "by an error"])
def test_switches_are_set_in_training_only(playground, request, ends: str):
    def now() -> dict:
        return {name: getattr(where, name) for where, name, _ in SWITCHES}

    before, theirs = now(), {}
    for where, name, value in SWITCHES:
        theirs[name] = 2 if name == "NUM_STREAMS" else not value
        request.addfinalizer(lambda w=where, n=name: setattr(w, n, before[n]))
        setattr(where, name, theirs[name])

    def use() -> None:
        with lent(playground.model) as loan:
            assert now() == {name: value for _, name, value in SWITCHES}
            with loan.paused():
                assert now() == theirs
            assert now() == {name: value for _, name, value in SWITCHES}
            if ends != "well":
                raise RuntimeError(ends)

    if ends == "well":
        use()
    else:
        with pytest.raises(RuntimeError, match=ends):
            use()
    assert now() == theirs
