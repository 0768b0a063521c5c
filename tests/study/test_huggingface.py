"""Data sets that `datasets` saved on this disk: tables, images, text, and splits of their own."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lossmith.study import StudyError, StudySpec, load_data

datasets = pytest.importorskip("datasets")

KINDS = datasets.ClassLabel(names=["sad", "glad"])


def table(rows: int, shift: float = 0.0) -> "datasets.Dataset":
    features = datasets.Features({"x": datasets.Value("float64"), "word": datasets.Value("string"), "label": KINDS})
    columns = {"x": [i + shift for i in range(rows)], "word": ["ab"[i % 2] for i in range(rows)], "label": [i % 2 for i in range(rows)]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_table(tmp_path: Path) -> None:
    table(10).save_to_disk(tmp_path / "saved")
    data = load_data(f"hf:{tmp_path / 'saved'}")  # the only class labels are the target
    assert data.class_names == ("glad", "sad")
    assert data.labels.tolist() == [1, 0] * 5
    assert [(column.name, column.kind) for column in data.columns] == [("x", "numeric"), ("word", "categorical")]
    assert data.features[:, 0].tolist() == list(range(10))
    assert load_data(f"hf:{tmp_path / 'saved'}", "word").class_names == ("a", "b")
    assert data.parts is None


def test_splits_are_the_users_own(tmp_path: Path) -> None:
    parts = {"train": table(8), "validation": table(6, 0.1), "test": table(6, 0.2), "unsupervised": table(2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    with pytest.raises(StudyError, match="bring their own split: say so with --split-column parts"):
        StudySpec(data=f"hf:{tmp_path / 'd'}", objectives="ce").load()
    data = StudySpec(data=f"hf:{tmp_path / 'd'}", objectives="ce", split_column="parts").load()
    assert data.parts is not None
    assert data.parts.tolist() == [0] * 8 + [1] * 6 + [2] * 6
    assert data.features[14, 0] == pytest.approx(0.2)
    assert [column.name for column in data.columns] == ["x", "word"]
    assert any("unsupervised" in note for note in data.notes)
    single = load_data(f"hf:{tmp_path / 'd'}@validation")
    assert len(single.labels) == 6
    assert single.parts is None


def test_a_hidden_label_is_missing(tmp_path: Path) -> None:
    rows = table(10).to_dict()
    rows["label"][3] = -1
    datasets.Dataset.from_dict(rows, features=table(2).features).save_to_disk(tmp_path / "d")
    data = load_data(f"hf:{tmp_path / 'd'}")
    assert len(data.labels) == 9
    assert "1 of 10 rows have no label and were left out" in data.notes


def test_images(tmp_path: Path) -> None:
    pixels = [np.full((6, 6), 20 * i, dtype=np.uint8) for i in range(8)]
    features = datasets.Features({"image": datasets.Image(), "who": datasets.Value("string"), "label": KINDS})
    columns = {"image": pixels, "who": list("aabbccdd"), "label": [i % 2 for i in range(8)]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "d")
    data = load_data(f"hf:{tmp_path / 'd'}@3")
    assert data.image_shape == (1, 3, 3)
    assert data.features[:, 0, 0, 0] * 255 == pytest.approx([20 * i for i in range(8)])
    assert data.class_names == ("glad", "sad")
    assert data.labels.tolist() == [1, 0] * 4
    assert "left out beside the images: who" in data.notes
    grouped = StudySpec(data=f"hf:{tmp_path / 'd'}@3", objectives="ce", group="who").load()
    assert grouped.groups is not None
    assert grouped.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_text(tmp_path: Path) -> None:
    rows = {"text": [f"{word} film {i}" for i in range(12) for word in ["good" if i % 2 else "bad"]], "y": ["np"[i % 2] for i in range(12)]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "d")
    data = StudySpec(data=f"hf:{tmp_path / 'd'}", target="y", objectives="ce", text="text@64").load()
    assert data.features.shape == (12, 64)


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.DatasetDict({"train": table(6), "dev": table(6)}).save_to_disk(tmp_path / "d")
    table(6).remove_columns("label").save_to_disk(tmp_path / "plain")
    (tmp_path / "empty").mkdir()
    for text, target, message in (
        ("hf:", None, "followed by a name"),
        (f"hf:{tmp_path / 'empty'}", None, "cannot be loaded"),
        (f"hf:{tmp_path / 'd'}@tset", None, "has no split 'tset'"),
        (f"hf:{tmp_path / 'd'}", None, "no train and test: name one"),
        (f"hf:{tmp_path / 'd'}@train", "lable", "did you mean 'label'"),
        (f"hf:{tmp_path / 'plain'}", None, "say which one to predict"),
    ):
        with pytest.raises(StudyError, match=message) as caught:
            load_data(text, target)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StudyError, match=r'needs datasets: pip install "lossmith\[data\]"'):
        load_data(f"hf:{tmp_path / 'd'}")
