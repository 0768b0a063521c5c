"""Networks of two libraries, by name: ``timm:resnet18`` and ``hf:microsoft/resnet-18`` for images, ``hf:bert-base-uncased`` for text.

They start from weights that the seed draws, as every model of a study does; ``@pretrained`` starts from the weights that come with the
name, with a new last layer that the seed draws.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossmith._checks import nearest
from lossmith.study.data.dataset import Dataset, Pieces
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import file_hash

HUBS = ("timm", "hf")
PRETRAINED = "@pretrained"

ROWS_AT_ONCE = 64
"""Texts that a network reads at once when nothing is trained: attention takes memory for every pair of pieces."""

UNBOUNDED = 1 << 20
"""Pieces that a network without positions of its own reads, which no text has."""

OFFSET = ("roberta", "camembert", "mpnet", "longformer", "esm")
"""In the type of a configuration: positions are counted from behind the padding's number, and so many fewer are there."""


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


def pieces_of(name: str, tokenizer: str | None) -> Pieces | None:
    """How a network that reads text wants it, by its own tokenizer unless another is named; None for any other model."""
    if not name.startswith("hf:"):
        return None
    config = _config(name)
    if not _reads_text(config):
        return None
    plain = _parts(name)[1]
    reads = config.get_text_config()
    longest = getattr(reads, "max_position_embeddings", None) or 0
    if any(kind in config.model_type for kind in OFFSET):
        longest -= (reads.pad_token_id or 0) + 1
    return Pieces(name, tokenizer or plain, longest if longest > 0 else UNBOUNDED, reads.vocab_size)


def check_fits(name: str, dataset: Dataset) -> None:
    """Refuse a network that reads text for data that are none, where both would be numbers."""
    if is_of_hub(name) and not dataset.is_text and pieces_of(name, None) is not None:
        raise StudyError(f"model {name!r} reads text, and {dataset.name} has none for it: name one column of text of a table with --text")


def build_of_hub(name: str, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The network, on images of this shape (channels, height, width) or on pieces of text (so many), to so many logits; drawn by torch's
    global generator."""
    hub, plain, pretrained = _parts(name)
    config = _config(name) if hub == "hf" else None
    text = config is not None and _reads_text(config)
    if not text and len(shape) != 3:
        raise StudyError(f"model {name} is for images, and these data are rows of features; use mlp or linear")
    if text and len(shape) != 1:
        raise StudyError(f"model {name} reads text, and these data are images; use cnn")
    try:
        if config is None:
            return _timm(name).create_model(plain, pretrained=pretrained, num_classes=n_classes, in_chans=shape[0])
        made = _text_model if text else _image_model
        return made(plain, config, pretrained, shape, n_classes).float()  # whatever precision the weights were saved in
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


class TextLogits(nn.Module):
    """A classifier of transformers as a function of the numbers of pieces, `(n, longest)` with -1 after a text's end, to logits.

    A batch is cut to its longest text, and what is left of padding is masked.
    """

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model, self.padding = model, padding

    def forward(self, pieces: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and len(pieces) > ROWS_AT_ONCE:
            return torch.cat([self(rows) for rows in pieces.split(ROWS_AT_ONCE)])
        numbers = pieces.long()
        if not torch.equal(numbers.to(pieces.dtype), pieces):
            raise StudyError("a network that reads text takes the numbers of its pieces, and these are not whole")
        there = numbers >= 0
        longest = max(1, int(there.sum(1).max()))
        numbers, there = numbers[:, :longest].where(there[:, :longest], self.padding), there[:, :longest].long()
        there[:, 0] = 1  # an empty text is one piece of padding: attention to nothing is not a number
        return self.model(input_ids=numbers, attention_mask=there).logits


def _text_model(plain: str, config: Any, pretrained: bool, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    config.num_labels = n_classes
    if config.pad_token_id is None:  # networks that read from left to right find a text's last piece by it
        config.pad_token_id = config.eos_token_id if isinstance(config.eos_token_id, int) else 0
    if pretrained:
        model = AutoModelForSequenceClassification.from_pretrained(_place(plain), config=config, ignore_mismatched_sizes=True)
    else:
        model = AutoModelForSequenceClassification.from_config(config)
    made = TextLogits(model, config.pad_token_id)
    _check_padding(made, config)
    return made


@torch.no_grad()
def _check_padding(model: TextLogits, config: Any) -> None:
    """Refuse a network that answers otherwise when a text has a longer one beside it: one that reads the last piece, whatever it is."""
    last = [config.eos_token_id] if isinstance(config.eos_token_id, int) and config.eos_token_id != model.padding else []
    first, second = [k for k in range(5) if k not in (model.padding, *last)][:2]
    short, long = [first, second, *last], [first, second, second, first, *last]
    beside = torch.tensor([short + [-1] * (len(long) - len(short)), long], dtype=torch.float32)
    model.eval()
    alone, padded = model(beside[:1])[0], model(beside)[0]
    model.train()
    if not torch.allclose(alone, padded, rtol=0, atol=1e-3 * float(alone.abs().max()) + 1e-6):
        raise StudyError(f"{type(model.model).__name__} answers otherwise when a text is padded behind its end, and cannot be used")


def _image_model(plain: str, config: Any, pretrained: bool, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    from transformers import AutoModelForImageClassification

    if pretrained:
        return Logits(AutoModelForImageClassification.from_pretrained(_place(plain), num_labels=n_classes, ignore_mismatched_sizes=True))
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
    except Exception as error:  # of a torchvision that was built for another torch
        raise StudyError(f"model {name!r} needs timm, which cannot be imported: {one_line(error)}") from error
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
    if type(config) in AutoModelForImageClassification._model_mapping or type(config) in AutoModelForSequenceClassification._model_mapping:
        return config
    raise StudyError(f"model {name!r}: {type(config).__name__} classifies neither images nor text")


def _reads_text(config: Any) -> bool:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    images, texts = AutoModelForImageClassification._model_mapping, AutoModelForSequenceClassification._model_mapping
    return type(config) in texts and type(config) not in images


def _place(plain: str) -> str:
    path = Path(plain).expanduser()
    return str(path) if path.exists() else plain
