"""Networks of two libraries, by name: ``timm:resnet18`` and ``hf:microsoft/resnet-18``, for images.

They start from weights that the seed draws, as every model of a study does; ``@pretrained`` starts from the weights that come with the
name, with a new last layer that the seed draws.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lossmith._checks import nearest
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import file_hash

HUBS = ("timm", "hf")
PRETRAINED = "@pretrained"


def is_of_hub(name: str) -> bool:
    """Whether a model is one of those."""
    return name.partition(":")[0] in HUBS and ":" in name


def check_of_hub(name: str) -> str:
    """A hash of what defines the network: its configuration or source, and whether its weights are taken."""
    hub, plain, pretrained = _parts(name)
    if hub == "timm":
        timm = _timm(name)
        if not timm.is_model(plain):
            raise StudyError(f"model {name!r}: timm has no model {plain!r}{nearest(plain, timm.list_models())}")
        return hashlib.sha256(f"{timm.__version__} {plain} {pretrained}".encode()).hexdigest()
    config = _config(name)
    told = {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}
    digest = hashlib.sha256(json.dumps([told, pretrained], sort_keys=True, default=str).encode())
    if pretrained:
        digest.update(str(getattr(config, "_commit_hash", None)).encode())
        folder = Path(plain).expanduser()
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
            digest.update(file_hash(file).encode())
    return digest.hexdigest()


def build_of_hub(name: str, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The network, on images of this shape (channels, height, width), to so many logits; drawn by torch's global generator."""
    if len(shape) != 3:
        raise StudyError(f"model {name} is for images, and these data are rows of features; use mlp or linear")
    hub, plain, pretrained = _parts(name)
    try:
        if hub == "timm":
            return _timm(name).create_model(plain, pretrained=pretrained, num_classes=n_classes, in_chans=shape[0])
        return _transformers_model(name, plain, pretrained, shape, n_classes)
    except StudyError:
        raise
    except Exception as error:  # either library may raise anything
        raise StudyError(f"model {name!r}, for {n_classes} classes of images {shape}, raised {one_line(error)}") from error


class Logits(nn.Module):
    """A classifier of transformers as a function of pixels to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).logits


def _transformers_model(name: str, plain: str, pretrained: bool, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    from transformers import AutoModelForImageClassification

    if pretrained:
        return Logits(AutoModelForImageClassification.from_pretrained(_place(plain), num_labels=n_classes, ignore_mismatched_sizes=True))
    config = _config(name)
    config.num_labels = n_classes
    for key, value in (("num_channels", shape[0]), ("image_size", list(shape[1:]) if shape[1] != shape[2] else shape[1])):
        if hasattr(config, key):
            setattr(config, key, value)
    return Logits(AutoModelForImageClassification.from_config(config))


def _parts(name: str) -> tuple[str, str, bool]:
    """Library, name, and whether with weights."""
    hub, _, rest = name.partition(":")
    plain = rest.removesuffix(PRETRAINED)
    if not plain:
        raise StudyError(f"model {name!r}: after {hub}: comes a name")
    return hub, plain, rest.endswith(PRETRAINED)


def _timm(name: str) -> Any:
    try:
        import timm  # pyrefly: ignore[missing-import]  # no extra of ours brings it: it needs torchvision
    except ImportError:
        raise StudyError(f"model {name!r} needs timm: pip install timm") from None
    return timm


def _config(name: str) -> Any:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification
    except ImportError:
        raise StudyError(f'model {name!r} needs transformers: pip install "lossmith[data]"') from None
    _, plain, _ = _parts(name)
    try:
        config = AutoConfig.from_pretrained(_place(plain))
    except Exception as error:  # the hub, the disk and the network raise many kinds
        raise StudyError(f"model {name!r} cannot be loaded: {one_line(error)}") from error
    if type(config) in AutoModelForImageClassification._model_mapping:
        return config
    if type(config) in AutoModelForSequenceClassification._model_mapping:
        raise StudyError(
            f"model {name!r}: {type(config).__name__} reads text piece by piece, and a study has rows of numbers: --text hashes text into "
            "1024 of them (--tokenizer: its pieces), for linear, mlp, xgboost, lightgbm or a module:function"
        )
    raise StudyError(f"model {name!r}: {type(config).__name__} classifies no images")


def _place(plain: str) -> str:
    path = Path(plain).expanduser()
    return str(path) if path.exists() else plain
