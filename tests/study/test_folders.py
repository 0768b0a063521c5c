"""Images in class folders: sizes, colours, the user's own split, and damaged files that are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lossmith.study import StudyError, StudySpec, load_data, run
from lossmith.study.grid import grid


def picture(path: Path, value: int, *, colour: bool = False, shape: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*shape, 3) if colour else shape, value, dtype=np.uint8)
    if colour:
        pixels[..., 2] = 0
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for i in range(5):
        picture(tmp_path / "pets" / "cat" / f"{i}.png", 10 * i)
        picture(tmp_path / "pets" / "dog" / "more" / f"{i}.png", 200 + i)
    return tmp_path / "pets"


def test_folders_are_classes_and_files_are_rows(pets: Path) -> None:
    data = load_data(f"folder:{pets}@4")
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (1, 4, 4)  # grey, as all of them are
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert data.features[:, 0, 0, 0] * 255 == pytest.approx([0, 10, 20, 30, 40, 200, 201, 202, 203, 204])
    assert data.features.dtype == np.float32
    assert load_data(f"folder:{pets}").image_shape == (1, 32, 32)


def test_the_middle_is_cut_out_and_scaled(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 255  # the square in the middle
    for name in "ab":
        for i in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(wide).save(tmp_path / name / f"{i}.png")
    assert (load_data(f"folder:{tmp_path}@4").features == 1).all()


def test_sixteen_bits_a_pixel_are_not_clipped(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 257 * 100)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((4, 4), value, dtype=np.uint16)).save(tmp_path / name / f"{i}.png")
    assert load_data(f"folder:{tmp_path}@2").features[3:] * 255 == pytest.approx(100)


def test_colour_where_a_picture_has_any_or_as_asked(pets: Path) -> None:
    picture(pets / "cat" / "orange.png", 100, colour=True)
    data = load_data(f"folder:{pets}@4")
    assert data.image_shape == (3, 4, 4)
    assert (data.features[5] * 255)[:, 0, 0] == pytest.approx([100, 100, 0])
    assert load_data(f"folder:{pets}@4@grey").image_shape == (1, 4, 4)
    assert load_data(f"folder:{pets}/dog/..@4@rgb").image_shape == (3, 4, 4)


def test_damaged_files_are_named_and_refused_or_left_out(pets: Path) -> None:
    (pets / "dog" / "broken.png").write_bytes(b"no image")
    whole = (pets / "cat" / "0.png").read_bytes()
    (pets / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pets / "cat" / "notes.txt").write_text("of no interest")
    with pytest.raises(StudyError, match=r"cat/cut.png, dog/broken.png cannot be read as images .*@skip") as caught:
        load_data(f"folder:{pets}")
    assert "\n" not in str(caught.value)
    data = load_data(f"folder:{pets}@8@skip")
    assert len(data.labels) == 10
    assert any("2 files cannot be read as images and were left out: cat/cut.png, dog/broken.png" in note for note in data.notes)
    assert "1 files are no images and were left out" in data.notes


def test_train_and_test_folders_are_the_users_own_split(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for name in ("a", "b"):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", 5 * i + (90 if name == "b" else 0))
    data = load_data(f"folder:{tmp_path}@4")
    assert data.class_names == ("a", "b")
    assert data.parts is not None
    assert np.bincount(data.parts).tolist() == [8, 4, 6]
    with pytest.raises(StudyError, match="bring their own split: say so with --split-column parts"):
        StudySpec(data=f"folder:{tmp_path}@4", objectives="ce").load()
    assert StudySpec(data=f"folder:{tmp_path}@4", objectives="ce", split_column="parts").load().parts is not None
    assert load_data(f"folder:{tmp_path}/train").parts is None


def test_what_is_no_folder_of_classes_is_one_line(pets: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / "half" / part / "a" / "0.png", 1)
    (tmp_path / "empty").mkdir()
    for text, message in (
        ("folder:", "followed by a folder"),
        (f"folder:{tmp_path}/nowhere", "no such folder"),
        (f"folder:{tmp_path}/empty", "no images in folders"),
        (f"folder:{pets}@big", "after @ comes a size"),
        (f"folder:{pets}@0", "whole number >= 1"),
        (f"folder:{tmp_path}/half", "a split needs train and test"),
        (str(pets), "folder:"),
    ):
        with pytest.raises(StudyError, match=message):
            load_data(text)
    with pytest.raises(StudyError, match="target is for files"):
        load_data(f"folder:{pets}", "label")
    with pytest.raises(StudyError, match="--text review is for files with columns"):
        StudySpec(data=f"folder:{pets}", objectives="ce", text="review").load()
    with pytest.raises(StudyError, match="target is for files with columns"):
        grid([f"folder:{pets}"], target="label", objectives="ce")


def test_the_fingerprint_follows_the_pixels(pets: Path) -> None:
    before = load_data(f"folder:{pets}@4").fingerprint
    assert load_data(f"folder:{pets}@4").fingerprint == before
    picture(pets / "cat" / "3.png", 77)
    assert load_data(f"folder:{pets}@4").fingerprint != before


def test_a_study_of_pictures(pets: Path) -> None:
    result = run(StudySpec(data=f"folder:{pets}@4", objectives="ce", model="cnn", seeds=1, epochs=5, learning_rates=[0.01]), jobs=1)
    assert result.values("accuracy").tolist() == [[1.0]]  # dark cats, bright dogs
