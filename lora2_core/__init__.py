"""LoRA adapters whose rank is learned layer by layer; works on any torch.nn.Module, needs no
ComfyUI.

    adapters = attach(module, targets=r"to_(q|k|v|out\\.0)$", settings=RankSettings(target_rank=16))
    for step in train(adapters, loss_fn, TrainSettings(steps=500)):
        print(step.index, step.loss, step.ranks)
    save("subject.safetensors", adapters)
    adapters.detach()
"""

from .adapters import Adapters, attach
from .attention import EntropyRecord, attention_entropy
from .files import finish, save
from .loading import load
from .lora import LoraLayer, RankedLora
from .settings import RankSettings, TrainSettings
from .training import Step, TrainingDiverged, train

__all__ = [
    "Adapters",
    "EntropyRecord",
    "LoraLayer",
    "RankSettings",
    "RankedLora",
    "Step",
    "TrainSettings",
    "TrainingDiverged",
    "attach",
    "attention_entropy",
    "finish",
    "load",
    "save",
    "train",
]
