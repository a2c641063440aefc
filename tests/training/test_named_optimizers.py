"""Optimizers by dotted name: what is taken, what follows ranks that move, and what is refused."""

import sys
from types import ModuleType

import pytest
import torch
from torch.optim import Optimizer

import lora2_core as lora2
from lora2_core.files.metadata import optimizer_entry
from lora2_core.training.named_optimizers import arguments_of, class_of, tried
from lora2_core.training.optimizers import check_optimizer
from lora2_core.training.run import Run
from lora2_core.training.run_state import captured, restore
from tests.toys import Planted

# rates at which they learn the planted ranks
MOVING = {
    "torch.optim.RAdam": 2e-2, "torch.optim.NAdam": 1e-2, "torch.optim.RMSprop": 3e-3,
    "torch.optim.Adagrad": 1e-1, "torch.optim.AdamW": 1e-2, "torch.optim.SGD": 1.0,
}  # fmt: skip
STILL = {"torch.optim.Adamax": 1e-2, "torch.optim.Adadelta": 3.0, "torch.optim.Adafactor": 0.3}
FREE = "schedulefree.AdamWScheduleFree"


class ScheduleFree(Optimizer):
    """The idea of schedulefree's SGD: gradients are taken between z and its mean x."""

    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "train_mode": False, "k": 0})

    @torch.no_grad()
    def blend(self, share: float, wanted: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] is wanted:
                continue
            for p in group["params"]:
                if p in self.state and "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], share(group["beta"]))
            group["train_mode"] = wanted

    def train(self) -> None:
        self.blend(lambda beta: 1 - beta, True)

    def eval(self) -> None:
        self.blend(lambda beta: 1 - 1 / beta, False)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            weight = 1 / (group["k"] + 1)
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.detach().clone())
                x = p.lerp(z, 1 - 1 / group["beta"])
                z.sub_(p.grad, alpha=group["lr"])
                x.lerp_(z, weight)
                p.copy_(x.lerp(z, 1 - group["beta"]))
            group["k"] += 1


@pytest.fixture
def free(monkeypatch) -> str:
    module = ModuleType("schedulefree")
    module.__spec__ = type(sys.__spec__)("schedulefree", None)
    module.AdamWScheduleFree = ScheduleFree
    monkeypatch.setitem(sys.modules, "schedulefree", module)
    return FREE


def run_of(
    name: str, mode: str, steps: int = 120, rate: float = 1e-2, **more
) -> tuple[Planted, Run]:
    model = Planted([6, 1, 3], width=24, noise=0.1)
    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=24)
    adapters = lora2.attach(model, "l", settings)
    return model, Run(adapters, lora2.TrainSettings(steps, rate, optimizer=name, **more))


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
@pytest.mark.parametrize("name", MOVING)
def test_it_learns_while_ranks_move(name: str, mode: str):
    model, run = run_of(name, mode, rate=MOVING[name])
    losses = [step.loss for step in run.steps(model.loss)]
    assert sum(losses[-10:]) < (0.95 if mode == "paper" else 0.7) * sum(losses[:10])


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
def test_what_can_not_follow_begins_anew(name: str, mode: str):
    model, run = run_of(name, mode, rate=STILL[name], steps=60)
    losses = [step.loss for step in run.steps(model.loss)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_torchs_own_adamw_is_ours():
    """The same run, but for the decay that ours counts in runs."""
    both = []
    for name, more in (
        ("adamw", {"weight_decay": 0.0}),
        ("torch.optim.AdamW", {"optimizer_args": "weight_decay = 0\nbetas = [0.9, 0.999]"}),
    ):
        model, run = run_of(name, "adaptive", steps=30, **more)
        both.append([step.loss for step in run.steps(model.loss)])
    assert both[1] == pytest.approx(both[0], rel=1e-3)


@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
def test_a_schedule_free_one_gives_its_mean_and_goes_on_from_its_own_weights(free: str, mode: str):
    model, run = run_of(free, mode, steps=60, rate=1.0, schedule="constant")
    assert tried(free, "").averages
    for step in run.steps(model.loss):
        if step.index == 30:
            now = [p.detach().clone() for p in run.optimizer.weights]
            before = run.optimizer.take_means()
            assert any(
                not torch.equal(a, p) for a, p in zip(now, run.optimizer.weights, strict=True)
            )
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)
            assert all(map(torch.equal, now, run.optimizer.weights))
    other, plain = run_of(free, mode, steps=60, rate=1.0, schedule="constant")
    assert run.losses == [step.loss for step in plain.steps(other.loss)]
    assert sum(run.losses[-5:]) < sum(run.losses[:5])


@pytest.mark.parametrize("name", ["torch.optim.RAdam", FREE])
def test_a_run_goes_on_exactly(free: str, name: str):
    whole_model, whole = run_of(name, "adaptive", steps=20)
    wanted = [step.loss for step in whole.steps(whole_model.loss)]
    model, run = run_of(name, "adaptive", steps=20)
    steps = run.steps(model.loss)
    for _ in range(8):
        next(steps)
    other, rest = run_of(name, "adaptive", steps=20)
    restore(rest, captured(run))
    for _ in rest.steps(other.loss):
        pass
    assert rest.losses == wanted


def test_arguments():
    assert arguments_of("") == {}
    assert arguments_of("betas = [0.9, 0.95]\n weight_decay=0.1 ") == {
        "betas": (0.9, 0.95), "weight_decay": 0.1
    }  # fmt: skip
    assert arguments_of('{"nesterov": true, "momentum": 0.9}') == {
        "nesterov": True,
        "momentum": 0.9,
    }
    settings = {"optimizer": "torch.optim.SGD", "optimizer_args": "momentum = 0.9"}
    assert optimizer_entry(settings) == "torch.optim.SGD(momentum = 0.9)"


@pytest.mark.parametrize(
    "text", ["a", "a = b", "[1]", "{", "= 3", "lr = 3", "a b = 1", "params = 1"]
)
def test_wrong_arguments_are_one_sentence(text: str):
    with pytest.raises(ValueError, match="^optimizer_args") as error:
        arguments_of(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "torch.load", "subprocess.Popen", "torch.optim.lr_scheduler.StepLR",
        "torch.optim.Optimizer", "torch.optim._functional", "torch.optim.Nothing", ".Adam",
        "torch.optim.", "torch.optim.swa_utils.SWALR", "builtins.eval", "torch.optim.lr_scheduler",
    ],
)  # fmt: skip
def test_no_other_name_is_imported(name: str, monkeypatch):
    from lora2_core.training import named_optimizers

    imported, real = [], named_optimizers.import_module
    monkeypatch.setattr(named_optimizers, "import_module", lambda m: imported.append(m) or real(m))
    with pytest.raises(ValueError, match="^optimizer ") as error:
        class_of(name)
    assert "\n" not in str(error.value) and set(imported) <= {"torch.optim"}


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("torch.optim.LBFGS", "", "torch.optim.LBFGS can't train here"),
        ("torch.optim.RAdam", "colour = 3", "can't train here .*colour.*: check optimizer_args"),
        ("torch.optim.SparseAdam", "", "can't train here"),
        ("torchao.optim.AdamW8bit", "", "needs the package torchao, which is not installed"),
    ],
)
def test_what_can_not_train_is_one_sentence(name, arguments, sentence, monkeypatch):
    from lora2_core.training import named_optimizers

    real = named_optimizers.find_spec
    monkeypatch.setattr(
        named_optimizers, "find_spec", lambda n: None if n == "torchao" else real(n)
    )
    with pytest.raises(ValueError, match=sentence) as error:
        check_optimizer(name, arguments)
    assert "\n" not in str(error.value)


def test_arguments_without_a_name_are_refused():
    with pytest.raises(ValueError, match="optimizer_args belong to an optimizer by dotted name"):
        lora2.TrainSettings(optimizer_args="a = 1")
