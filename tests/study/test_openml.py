"""OpenML through scikit-learn's own cache, without a network, and ARFF files."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossmith.study import StudyError, load_data

ARFF = """@relation flowers
@attribute length numeric
@attribute colour {red,blue}
@attribute kind {rose,iris}
@data
1.5,red,rose
2.5,blue,iris
?,red,rose
3.5,?,iris
1.0,blue,rose
4.0,red,iris
"""


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What scikit-learn would have kept of data set 61 after a first time."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", lambda request: pytest.fail(f"asked the network for {request.full_url}"))
    root = tmp_path / "openml" / "openml.org"

    def keep(path: str, content: Any) -> None:
        file = root / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress((content if isinstance(content, str) else json.dumps(content)).encode()))

    about = {
        "id": "61", "name": "flowers", "version": "2", "status": "active", "format": "ARFF", "description": "made up", "file_id": "61",
        "url": "https://www.openml.org/data/v1/download/61", "md5_checksum": hashlib.md5(ARFF.encode()).hexdigest(),
        "warning": "half of it is invented",
    }  # fmt: skip
    columns = [("length", "numeric", "false"), ("colour", "nominal", "false"), ("kind", "nominal", "true")]
    features = [
        {
            "index": str(i),
            "name": name,
            "data_type": kind,
            "is_target": target,
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }
        for i, (name, kind, target) in enumerate(columns)
    ]
    keep("api/v1/json/data/61", {"data_set_description": about})
    keep("api/v1/json/data/features/61", {"data_features": {"feature": features}})
    keep("api/v1/json/data/qualities/61", {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "6"}]}})
    found = {"data": {"dataset": [{"did": 61, "name": "flowers", "version": 2, "status": "active"}]}}
    keep("api/v1/json/data/list/data_name/flowers/limit/2/data_version/2", found)
    keep("api/v1/json/data/list/data_name/flowers/limit/2/status/active", found)
    keep("api/v1/json/data/list/data_name/flowers/limit/2/status/active/", found)
    keep("data/v1/download/61", ARFF)
    return tmp_path


def test_by_number_or_name(cached: Path) -> None:
    data = load_data("openml:61")
    assert data.class_names == ("iris", "rose")
    assert data.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert [(column.name, column.kind) for column in data.columns] == [("length", "numeric"), ("colour", "categorical")]
    assert np.array_equal(data.features, [[1.5, 1], [2.5, 0], [np.nan, 1], [3.5, np.nan], [1, 0], [4, 1]], equal_nan=True)
    assert data.notes[0] == "OpenML's number 61, version 2; the target is kind"
    assert any("half of it is invented" in warning for warning in data.warnings)
    assert load_data("openml:flowers@2").fingerprint == load_data("openml:flowers").fingerprint == data.fingerprint


def test_another_target(cached: Path) -> None:
    with pytest.raises(StudyError, match="class 'blue' has 2 rows"):  # it is read as the target, and has too few
        load_data("openml:61", "colour")


def test_a_local_file_is_the_same_table(cached: Path, tmp_path: Path) -> None:
    (tmp_path / "flowers.arff").write_text(ARFF)
    assert load_data(str(tmp_path / "flowers.arff"), "kind").fingerprint == load_data("openml:61").fingerprint


def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))

    def offline(*_: Any) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("sklearn.datasets._openml.urlopen", offline)
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda _: None)
    (tmp_path / "text.arff").write_text("@relation r\n@attribute t string\n@attribute y {a,b}\n@data\n'x y',a\n")
    (tmp_path / "broken.arff").write_text("@relation r\n@attribute t numeric\n@data\nword\n")
    for text, message in (
        ("openml:", "followed by a name"),
        ("openml:61", "cannot be loaded: OSError: no network"),
        ("openml:61@2", "a number has none"),
        ("openml:iris@new", "a name may have a version"),
        (str(tmp_path / "text.arff"), "save it as CSV"),
        (str(tmp_path / "broken.arff"), "cannot be read"),
    ):
        with pytest.raises(StudyError, match=message) as caught:
            load_data(text, "y")
        assert "\n" not in str(caught.value)
