"""The models a study trains: three that are built in, boosted trees, networks of timm and transformers, or a function of the user's.

A user's function is called with those of the keywords `in_features`, `image_shape` and `n_classes` that it takes, and returns a Module
that maps a batch of features, `(n, d)` or `(n, channels, height, width)` for images, to logits `(n, n_classes)`.
"""

import inspect
import math
import re
from itertools import pairwise

import torch
from torch import nn

from lossmith._checks import nearest
from lossmith.study.errors import StudyError, one_line
from lossmith.study.references import is_reference, load_reference, source_hash
from lossmith.study.training.hubs import build_of_hub, check_of_hub, is_of_hub
from lossmith.study.training.trees import TREES, Trees, check_trees

MODELS = {
    "linear": "one linear layer",
    "mlp": "two hidden layers of 64, ReLU; mlp:256x256x256 has three of 256",
    "cnn": "two convolutions (16 and 32 channels, 3 x 3, ReLU), pooled to 4 x 4, one hidden layer of 64; for images",
}
"""The built-in models and what they are."""

HIDDEN = (64, 64)
"""The hidden layers of ``mlp``, unless it says others."""


def check_model(name: str) -> str:
    """The hash of the file that defines a user's model, "" for a built-in one; a StudyError for anything else."""
    if name in MODELS or _hidden(name) is not None:
        return ""
    if name in TREES:
        return check_trees(name)
    if is_of_hub(name):
        return check_of_hub(name)
    if not is_reference(name):
        known = [*MODELS, *TREES]
        raise StudyError(
            f"model must be {', '.join(known)}, mlp:WIDTHxWIDTH, timm:NAME, hf:NAME or module:function; got {name!r}{nearest(name, known)}"
        )
    function = load_reference(name, "model")
    if not callable(function):
        raise StudyError(f"model {name!r} must be a function that returns a Module; got {type(function).__name__}")
    return source_hash(function)


def build_model(name: str, shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone.

    Args:
        name: as `check_model` takes it.
        shape: of one row's features.
        n_classes: number of logits.
        seed: of the initial weights; the global generator is left at a state that follows from it.
    """
    torch.manual_seed(seed)
    in_features = math.prod(shape)
    if name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(in_features, n_classes))
    hidden = _hidden(name)
    if hidden is not None:
        layers: list[nn.Module] = [nn.Flatten()]
        for width, to in pairwise((in_features, *hidden)):
            layers += [nn.Linear(width, to), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden[-1], n_classes))
    if name == "cnn":
        if len(shape) != 3:
            raise StudyError("model cnn is for images, and these data are rows of features; use mlp or linear")
        return nn.Sequential(
            nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, n_classes),
        )  # fmt: skip
    if name in TREES:
        return Trees(name, n_classes)
    if is_of_hub(name):
        return build_of_hub(name, shape, n_classes)
    return _user_model(name, shape, in_features, n_classes)


def _hidden(name: str) -> tuple[int, ...] | None:
    """The widths of the hidden layers of ``mlp`` or ``mlp:128x64``; None for any other model."""
    if name == "mlp":
        return HIDDEN
    kind, _, widths = name.partition(":")
    if kind != "mlp":
        return None
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", widths):
        raise StudyError(f"model mlp:WIDTHxWIDTH takes whole numbers >= 1, one a hidden layer, as mlp:256x256 does; got {name!r}")
    return tuple(map(int, widths.split("x")))


def _user_model(name: str, shape: tuple[int, ...], in_features: int, n_classes: int) -> nn.Module:
    function = load_reference(name, "model")
    offered = {"in_features": in_features, "image_shape": shape if len(shape) == 3 else None, "n_classes": n_classes}
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    try:
        model = function(**{key: value for key, value in offered.items() if takes_any or key in parameters})
    except Exception as error:  # a user's function may raise anything
        raise StudyError(f"model {name!r}, called with {', '.join(offered)}, raised {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise StudyError(f"model {name!r} must return a torch.nn.Module; got {type(model).__name__}")
    return model
