"""LoRA adapters whose rank is learned layer by layer; works on any torch.nn.Module, needs no
ComfyUI.

    adapters = attach(module, targets=r"to_(q|k|v|out\\.0)$", settings=RankSettings(target_rank=16))
    for step in train(adapters, loss_fn, TrainSettings(steps=500)):
        print(step.index, step.loss, step.ranks)
    save("subject.safetensors", adapters)
    adapters.detach()
"""

from .adapter.lora import LoraLayer, RankedLora
from .files.loading import load
from .layers.adapters import Adapters, attach
from .layers.finish import finish, save
from .ranks.settings import RankSettings
from .training.attention import EntropyRecord, attention_entropy
from .training.run import Step, TrainingDiverged, train
from .training.settings import TrainSettings

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
