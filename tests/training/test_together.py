"""Parameters that lie behind each other are trained as one as each would be alone."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

import lora2_core as lora2
from lora2_core.layers import folding
from lora2_core.layers.joined import frozen_of
from lora2_core.training.checkpoint import Card, decode, encode
from lora2_core.training.run import Run
from lora2_core.training.run_state import restore

# of which products come out alike wherever they lie
WIDTHS = [(16, 32), (16, 48), (32, 48), (16, 32), (48, 32), (16, 32)]


class Parallel(nn.Module):
    """Layers of few shapes, each with a target of its own; `resting` ones are left out."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(*widths, bias=False) for widths in WIDTHS)
        self.targets = []
        for layer in self.layers:
            layer.requires_grad_(False)
            shape = layer.weight.shape
            layer.weight.copy_(torch.randn(shape, generator=generator))
            self.targets.append(torch.randn(shape, generator=generator))
        self.resting, self.shared = set(), torch.randn(5, 16, generator=generator)

    def loss(self, generator: torch.Generator) -> torch.Tensor:
        total = torch.zeros(())
        for number, (layer, target) in enumerate(zip(self.layers, self.targets, strict=True)):
            if number not in self.resting:
                x = torch.randn(5, layer.in_features, generator=generator)
                x = self.shared if number in (0, 3) else x
                total = total + (layer(x) - x @ target.T).square().mean()
        return total


def run_of(together: bool, monkeypatch, mode="adaptive", **chosen) -> tuple[Parallel, Run]:
    """A run whose parameters lie together as on a GPU, or each alone."""
    alike = folding.alike
    monkeypatch.setattr(folding, "alike", lambda sizes, _: alike(sizes, torch.device("cuda")))
    monkeypatch.setattr(folding, "lie_together", lambda _: together)
    monkeypatch.setattr("lora2_core.layers.sheets.lie_together", lambda _: together)
    model = Parallel()
    settings = lora2.RankSettings(mode=mode, target_rank=3, max_rank=8)
    speeds = chosen.pop("speeds", None)
    adapters = lora2.attach(model, ".*", settings, frozen=frozen_of, speeds=speeds)
    training = lora2.TrainSettings(**{"steps": 40, "learning_rate": 1e-2} | chosen)
    return model, Run(adapters, training)


def values(run: Run) -> dict[str, torch.Tensor]:
    found = {}
    for name, c in run.adapters.components.items():
        for kind, parameter in (("up", c.lora_up), ("down", c.lora_down)):
            found[f"{name} {kind}"] = parameter.detach().clone()
            state = run.optimizer.state.get(parameter, {})
            found |= {f"{name} {kind} {k}": v.clone() for k, v in state.items()}
    return found


def close(name: str, one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")


def same(first: Run, second: Run) -> None:
    one, two = values(first), values(second)
    assert one.keys() == two.keys()
    for name in one:
        close(name, one[name], two[name])


CHOSEN = {
    "fixed": {"mode": "fixed"},
    "adaptive": {},
    "paper": {"mode": "paper"},
    "ema": {"ema": 0.9},
    "LoRA+": {"loraplus_lr_ratio": 4.0},
    "cut": {"max_norm": 0.1},
    "one at half the speed": {"mode": "fixed", "speeds": {"layers.3": 0.5}},
    "sgd": {"optimizer": "sgd"},
    "scaled": {"mode": "fixed", "half": True},
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_is_that_of_each_alone(name, monkeypatch):
    """Ranks move, and some layers rest in some steps."""
    chosen, runs = dict(CHOSEN[name]), []
    half = chosen.pop("half", False)
    for together in (True, False):
        with monkeypatch.context() as patch:
            model, run = run_of(together, patch, **chosen)
            run.scale.enabled = half
            run.scale.value = 2.0**10 if half else 1.0
            count = 0
            for step in run.steps(model.loss):
                model.resting = {2} if step.index == 4 else {0, 2} if step.index == 20 else set()
                count += sum(bool(w.kept) for w in run.adapters.paths.sheets.laid)
                assert all(p.grad is None for p in run.adapters.paths.sheets.parameters)
                assert all(w.values.grad is None for w in run.adapters.paths.sheets.laid)
            assert bool(count) == (together and name != "sgd")
        runs.append(run)
    same(*runs)


def test_few_tensors_are_stepped_and_what_is_kept_is_seen_by_layer(monkeypatch):
    model, run = run_of(True, monkeypatch, "fixed", steps=6)
    seen = []
    member = run.optimizer.members[0]
    step = member.step
    monkeypatch.setattr(
        member, "step", lambda: seen.append(len(member.param_groups[0]["params"])) or step()
    )
    list(run.steps(model.loss))
    laid = run.adapters.paths.sheets.laid
    assert seen[0] == 2 * len(WIDTHS) and seen[-1] < len(WIDTHS) and len(seen) == 6
    for whole in laid:
        for number, one in enumerate(whole.members):
            part = whole.parts(whole.kept["exp_avg"])[number]
            assert run.optimizer.state[one]["exp_avg"].data_ptr() == part.data_ptr()
            assert one.data_ptr() == whole.parts(whole.values)[number].data_ptr()


@pytest.mark.parametrize("mode", ["fixed", "adaptive"])
def test_a_checkpoint_is_that_of_each_alone_and_goes_on_to_the_same_bytes(
    mode, tmp_path, monkeypatch
):
    files = []
    for together in (True, False):
        with monkeypatch.context() as patch:
            model, run = run_of(together, patch, mode, steps=12)
            steps = run.steps(model.loss)
            for _ in range(5):
                next(steps)
            files.append(tmp_path / f"{together}.safetensors")
            files[-1].write_bytes(encode(run, Card.of(run, "abc", 1, {"steps": 12})))
            if together:
                list(steps)
                wanted = values(run)
                again, part = run_of(True, patch, mode, steps=12)
                restore(part, decode(files[0])[1])
                list(part.steps(again.loss))
                assert any(whole.kept for whole in part.adapters.paths.sheets.laid)
                assert all(torch.equal(wanted[k], values(part)[k]) for k in wanted)
    with safe_open(files[0], "pt") as one, safe_open(files[1], "pt") as two:
        assert set(one.keys()) == set(two.keys())
        for key in one.keys():  # noqa: SIM118
            close(key, one.get_tensor(key), two.get_tensor(key))


def test_what_a_broken_step_left_behind_plays_no_part(monkeypatch):
    found = []
    for broken in (False, True):
        with monkeypatch.context() as patch:
            model, run = run_of(True, patch, "fixed", steps=8)
            steps = run.steps(model.loss)
            for _ in range(4):
                next(steps)
            steps.close()
            if broken:
                with run.adapters.paths.without_autograd():
                    run.computed(model.loss, None)
                assert any(w.values.grad is not None for w in run.adapters.paths.sheets.laid)
                run.generator.set_state(run.random)
            list(run.steps(model.loss))
            found.append(values(run))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
