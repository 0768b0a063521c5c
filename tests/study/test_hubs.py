"""Networks of transformers and timm by name, without a network."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossmith.study import Dataset, StudyError, StudySpec, run_trial
from lossmith.study.training.models import build_model, check_model


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The configuration and the weights of a small ResNet for two classes of images of three channels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.filterwarnings("ignore")
def test_from_a_configuration_the_seed_draws_the_weights(tiny: Path) -> None:
    first, again, other = (build_model(f"hf:{tiny}", (1, 8, 8), 5, seed) for seed in (0, 0, 1))
    assert first.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 5)  # channels and classes are the data's
    weights = [model.state_dict()["model.classifier.1.weight"] for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.filterwarnings("ignore")
def test_pretrained_weights_are_kept_below_a_new_head(tiny: Path) -> None:
    from safetensors.torch import load_file

    saved = load_file(tiny / "model.safetensors")
    model = build_model(f"hf:{tiny}@pretrained", (3, 8, 8), 5, 0)
    found = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    body = [name for name in saved if "classifier" not in name]
    assert len(body) > 10
    assert all(torch.equal(found[f"{name}"] if name in found else found[name.removeprefix("model.")], saved[name]) for name in body)
    assert found["classifier.1.weight"].shape == (5, 8)
    assert check_model(f"hf:{tiny}@pretrained") != check_model(f"hf:{tiny}")


def test_the_key_follows_the_configuration_and_the_weights(tiny: Path) -> None:
    before, with_weights = check_model(f"hf:{tiny}"), check_model(f"hf:{tiny}@pretrained")
    assert check_model(f"hf:{tiny}") == before
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    assert check_model(f"hf:{tiny}") == before
    assert check_model(f"hf:{tiny}@pretrained") != with_weights
    config = tiny / "config.json"
    config.write_text(config.read_text().replace('"embedding_size": 4', '"embedding_size": 6'))
    assert check_model(f"hf:{tiny}") != before


@pytest.mark.filterwarnings("ignore")
def test_it_trains(tiny: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 2
    data = Dataset.from_arrays("bright", draw.normal(size=(40, 1, 8, 8)) + 3 * labels[:, None, None, None], labels)
    spec = StudySpec(data=data, objectives="ce", model=f"hf:{tiny}", seeds=1, epochs=8, learning_rates=[0.01], batch_size=16)
    (trial,) = spec.trials(data.fingerprint)
    record = run_trial(trial, data)
    assert record["epochs"][-1]["train_loss"] < record["epochs"][1]["train_loss"] / 2


def test_timm_gets_classes_channels_and_whether_with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.update(name=name, **options)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(options["num_classes"]))

    timm: Any = types.ModuleType("timm")
    timm.create_model, timm.is_model, timm.list_models = create_model, {"resnet18"}.__contains__, lambda: ["resnet18"]
    timm.__version__ = "1.0"
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert check_model("timm:resnet18") != check_model("timm:resnet18@pretrained")
    build_model("timm:resnet18@pretrained", (1, 8, 8), 4, 0)
    assert asked == {"name": "resnet18", "pretrained": True, "num_classes": 4, "in_chans": 1}
    with pytest.raises(StudyError, match="did you mean 'resnet18'"):
        check_model("timm:resnet8")
    with pytest.raises(StudyError, match="is for images"):
        build_model("timm:resnet18", (8,), 4, 0)


@pytest.mark.filterwarnings("ignore")
def test_timm_itself() -> None:
    """Where it is installed: channels and classes are the data's, the weights the seed's, and it trains."""
    try:
        import timm
    except Exception as error:  # of a torchvision that was built for another torch too
        pytest.skip(f"timm cannot be imported, and only a stand-in is tried ({error})")
    name = "timm:test_resnet"
    assert "test_resnet" in timm.list_models()
    first, again, other = (build_model(name, (1, 32, 32), 3, seed) for seed in (0, 0, 1))
    assert first.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    weights = [next(iter(model.parameters())) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 2
    data = Dataset.from_arrays("bright", draw.normal(size=(40, 1, 32, 32)) + 3 * labels[:, None, None, None], labels)
    spec = StudySpec(data=data, objectives="ce", model=name, seeds=1, epochs=8, learning_rates=[0.01], batch_size=16)
    (trial,) = spec.trials(data.fingerprint)
    record = run_trial(trial, data)
    assert record["epochs"][-1]["train_loss"] < record["epochs"][1]["train_loss"] / 2
    with pytest.raises(StudyError, match=r"timm has no model 'test_resnets'.*did you mean 'test_resnet"):
        check_model("timm:test_resnets")


def test_what_is_missing_is_one_line(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "config.json").write_text('{"model_type": "hubert"}')
    (tmp_path / "nothing").mkdir()
    for name, message in (
        (f"hf:{tmp_path / 'sound'}", "HubertConfig classifies neither images nor text"),
        (f"hf:{tmp_path / 'nothing'}", "cannot be loaded"),
        ("hf:", "after hf: comes a name"),
    ):
        with pytest.raises(StudyError, match=message) as caught:
            check_model(name)
        assert "\n" not in str(caught.value)
    for package, name, message in (
        ("timm", "timm:resnet18", "needs timm: pip install timm"),
        ("transformers", f"hf:{tiny}", r'needs transformers: pip install "lossmith\[data\]"'),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(StudyError, match=message):
            check_model(name)
