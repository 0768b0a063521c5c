"""Rows that no class is right for, from a further table, a folder or a function: read as the study's own rows are, or refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossmith.study import Dataset, StudyError, StudySpec, run
from lossmith.study.data.splits import make_split
from lossmith.study.probed import findings
from lossmith.study.report.command import command

DRAW = np.random.default_rng(0)
N = 60


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "always": "same", "size": DRAW.normal(10, 2, N).round(3), "colour": np.array(["red", "green", "7"])[np.arange(N) % 3],
            "day": [f"{1 + i % 28}/{1 + i % 12}/2024" for i in range(N)], "note": [f"text {i % 5} of many" for i in range(N)],
            "kind": np.where(np.arange(N) % 2, "a", "b"),
        }
    )  # fmt: skip


def spec(folder: Path, frame: pd.DataFrame, other: pd.DataFrame, **options: object) -> StudySpec:
    frame.to_csv(folder / "seen.csv", index=False)
    other.to_csv(folder / "other.csv", index=False)
    plain = {"data": str(folder / "seen.csv"), "target": "kind", "objectives": ["ce"], "model": "linear", "ood": str(folder / "other.csv")}
    return StudySpec(**{**plain, "text": "note@8", **options})


def test_a_table_is_read_as_the_study_s_own(tmp_path: Path) -> None:
    """By hand: a number less the training mean in training deviations, a word's indicator, days since 1970, and what is missing."""
    frame = table()
    other = pd.DataFrame(
        {
            "day": ["3/4/2024", None, "13/1/1970"], "colour": [7, None, 8], "size": [40.0, None, 10.0],
            "note": ["text 1 of many", "", None], "further": [1, 2, 3],
        }
    )  # fmt: skip
    dataset = spec(tmp_path, frame, other).load()
    names = [column.name for column in dataset.columns]
    assert names[:5] == ["size", "colour", "day", "day (month)", "day (day of the week)"]
    assert dataset.strange is not None
    # day/month as in the study, whose 28/4 leaves no doubt: alone 3/4 could be in March
    wanted = [[40.0, 0.0, 19816.0, 4.0, 2.0], [np.nan] * 5, [10.0, 3.0, 12.0, 1.0, 1.0]]
    np.testing.assert_array_equal(dataset.strange[:, :5], wanted)
    np.testing.assert_array_equal(dataset.strange[0, 5:], dataset.features[1, 5:])
    assert (dataset.strange[1:, 5:] == 0).all()
    assert dataset.columns[1].categories == ("7", "green", "red")
    split = make_split(dataset, 0)
    prepared = split.prepare(dataset.strange).numpy()
    trained = dataset.features[split.rows_train]
    mean, deviation = trained[:, 0].mean(), trained[:, 0].std()
    middle = np.median(trained[:, 0])
    np.testing.assert_allclose(prepared[:, 0], (np.array([40.0, middle, 10.0]) - mean) / deviation, rtol=1e-5)
    np.testing.assert_array_equal(prepared[:, -3:], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])  # 8 and a gap are no colour of the training rows
    alone = spec(tmp_path, frame, other, ood=None).load()
    np.testing.assert_array_equal(alone.features, dataset.features)
    assert alone.fingerprint != dataset.fingerprint
    assert "3 rows of other.csv stand for strange ones, read as these are" in dataset.notes


def test_a_study_tells_them_from_its_test_rows(tmp_path: Path) -> None:
    frame = table()
    frame["size"] = np.where(frame["kind"] == "a", 1.0, -1.0) + DRAW.normal(0, 0.1, N)
    frame = frame[["size", "kind"]].assign(other=DRAW.normal(0, 1, N))
    strange = pd.DataFrame({"other": np.zeros(40), "size": np.linspace(-0.05, 0.05, 40)})  # between the classes: no logit is large
    asked = spec(tmp_path, frame, strange, text=(), seeds=2, epochs=200, learning_rates=[0.1], references=False)
    found = {(one.probe, one.measure): one for one in findings(run(asked, jobs=1))}
    assert found["ood energy", "auroc"].mean("cross_entropy") > 0.95
    assert f"--ood {tmp_path / 'other.csv'}" in str(command(asked))


def test_rows_of_the_study_are_not_strange(tmp_path: Path) -> None:
    frame = table()
    (warning,) = spec(tmp_path, frame, frame.head(4)).load().warnings
    assert "4 of the 4 rows of --ood" in warning


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": None}, "lacks columns that are learnt from: size"),
        ({"size": None, "colour": None, "sizes": "size"}, "lacks columns that are learnt from: size, colour; did you mean 'sizes'"),
        ({"size": "large"}, "column 'size' holds 'large', and numbers in the study's table"),
        ({"size": np.inf}, "column 'size' holds infinite values"),
        ({"day": "soon"}, "column 'day' holds 'soon', and in the study's table dates such as 1/1/2024"),
        ({"note": 3.5}, "the column holds float"),
    ],
)
def test_a_table_that_cannot_be_read_so_is_one_line(tmp_path: Path, change: dict[str, object], said: str) -> None:
    other = table().head(5)
    for name, value in change.items():
        other = other.drop(columns=name) if value is None else other.assign(**{name: value})
    with pytest.raises(StudyError, match=r"--ood .*other\.csv") as caught:
        spec(tmp_path, table(), other).load()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_learnt_from_may_be_absent(tmp_path: Path) -> None:
    dataset = spec(tmp_path, table(), table().head(3).drop(columns=["always", "kind"])).load()
    assert dataset.strange is not None
    assert len(dataset.strange) == 3


def test_a_frame_may_stand_beside_a_file(tmp_path: Path) -> None:
    frame = table()
    asked = spec(tmp_path, frame, frame.tail(2).assign(size=99.0))
    given = spec(tmp_path, frame, frame.tail(2).assign(size=99.0), data=frame)
    strange, other = asked.load().strange, given.load().strange
    assert strange is not None
    np.testing.assert_array_equal(strange, other)


def pictures(folder: Path, shade: int, n: int = 4) -> None:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True)
    for k in range(n):
        image.fromarray(np.full((20, 24, 3), shade + 10 * k, dtype=np.uint8)).save(folder / f"{k}.png")


def test_a_folder_needs_no_classes_and_is_read_at_the_study_s_size(tmp_path: Path) -> None:
    for name, shade in (("dark", 0), ("light", 180)):
        pictures(tmp_path / "pets" / name, shade)
    pictures(tmp_path / "other", 100)
    pictures(tmp_path / "other" / "deeper", 50, n=1)
    seen = f"folder:{tmp_path}/pets@8@rgb"
    for ood in (f"folder:{tmp_path}/other", str(tmp_path / "other"), f"folder:{tmp_path}/other@8"):
        strange = StudySpec(data=seen, objectives=["ce"], ood=ood).load().strange
        assert strange is not None
        assert strange.shape == (5, 3, 8, 8)
        np.testing.assert_allclose(sorted(strange[:, 0, 0, 0] * 255), [50, 100, 110, 120, 130], rtol=1e-5)
    for data, ood, said in (
        (seen, f"folder:{tmp_path}/other@16", r"have shape \(3, 16, 16\), those of pets \(3, 8, 8\)"),
        (seen, f"folder:{tmp_path}/other@blue", "after @ comes a size"),
        (seen, f"folder:{tmp_path}/none", "there is no such folder"),
        ("digits", f"folder:{tmp_path}/other", "values from 0 to 1; those of digits do not"),
        ("wine", str(tmp_path / "other"), "a folder holds images, and wine has rows of numbers"),
    ):
        with pytest.raises(StudyError, match=said):
            StudySpec(data=data, objectives=["ce"], ood=ood).load()


def test_a_function_may_return_features_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "import numpy as np\ndef alone():\n    return np.ones((5, 13))\ndef labelled():\n    return np.ones((5, 13)), [0] * 5\n"
        "def gaps():\n    return np.full((5, 13), np.nan)\ndef fails():\n    raise OSError('no disk')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("alone", "labelled"):
        strange = StudySpec(data="wine", objectives=["ce"], ood=f"elsewhere:{name}").load().strange
        np.testing.assert_array_equal(strange, np.ones((5, 13)))
    for name, said in (("gaps", "hold NaN"), ("fails", "raised OSError: no disk")):
        with pytest.raises(StudyError, match=f"--ood.*{said}"):
            StudySpec(data="wine", objectives=["ce"], ood=f"elsewhere:{name}").load()


def test_beside_a_table_stands_a_table(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="beside a table stands a file with the same columns, not digits"):
        spec(tmp_path, table(), table(), ood="digits").load()
    other = Dataset.from_arrays("other", np.zeros((6, 4)), np.arange(6) % 2)
    with pytest.raises(StudyError, match="not other; --ood-classes"):
        spec(tmp_path, table(), table(), ood=other).load()
