"""Built-in models take what they say and start from the seed alone; a user's model is called with what it asks for."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lossmith.study import StudyError
from lossmith.study.training.models import MODELS, build_model, check_model


@pytest.fixture
def user() -> Iterator[types.ModuleType]:
    module = types.ModuleType("a_users_models")
    sys.modules["a_users_models"] = module
    yield module
    del sys.modules["a_users_models"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 1, 1)])
def test_built_in_models_map_images_to_logits(name: str, shape: tuple[int, ...]) -> None:
    model = build_model(name, shape, 4, seed=0)
    assert model(torch.randn(3, *shape)).shape == (3, 4)


def widths(name: str) -> list[int]:
    return [layer.out_features for layer in build_model(name, (5,), 3, 0) if isinstance(layer, nn.Linear)]


def test_hidden_layers_as_asked() -> None:
    assert widths("mlp") == widths("mlp:64x64") == [64, 64, 3]
    assert widths("mlp:7") == [7, 3]
    assert widths("mlp:256x128x9") == [256, 128, 9, 3]
    assert check_model("mlp:256x128x9") == ""
    for wrong in ("mlp:", "mlp:0x4", "mlp:64x", "mlp:64,64", "mlp:wide"):
        with pytest.raises(StudyError, match="takes whole numbers >= 1, one a hidden layer"):
            check_model(wrong)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (build_model("mlp", (5,), 3, seed) for seed in (0, 0, 1))
    torch.rand(7)
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    for a, b, c in pairs:
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_users_model_gets_the_keywords_it_takes(user: types.ModuleType) -> None:
    got: dict[str, Any] = {}

    def some(n_classes: int, in_features: int) -> nn.Module:
        got.update(n_classes=n_classes, in_features=in_features)
        return nn.Linear(in_features, n_classes)

    def everything(**keywords: Any) -> nn.Module:
        got.update(keywords)
        return nn.Flatten()

    user.some, user.everything = some, everything
    assert isinstance(build_model("a_users_models:some", (6,), 2, 0), nn.Linear)
    assert got == {"n_classes": 2, "in_features": 6}
    build_model("a_users_models:everything", (1, 2, 3), 2, 0)
    assert got == {"n_classes": 2, "in_features": 6, "image_shape": (1, 2, 3)}


def test_a_bad_model_is_one_line(user: types.ModuleType) -> None:
    user.number, user.none, user.broken = 3, lambda: None, lambda n_classes: 1 / 0
    for name, message in [("mpl", "did you mean 'mlp'"), ("a_users_models:number", "must be a function"), ("no_module:x", "no module")]:
        with pytest.raises(StudyError, match=message):
            check_model(name)
    for name, message in [("none", "must return a torch.nn.Module; got NoneType"), ("broken", "ZeroDivisionError")]:
        with pytest.raises(StudyError, match=message):
            build_model(f"a_users_models:{name}", (2,), 2, 0)
    with pytest.raises(StudyError, match="cnn is for images"):
        build_model("cnn", (5,), 2, 0)
