"""Label noise flips at its rate to the right classes; the long tail has its profile; both come from the generator alone."""

import numpy as np
import pytest

from lossmith.study.data.corruption import Noise, add_noise, long_tail
from lossmith.study.data.splits import stream
from lossmith.study.errors import StudyError


def test_symmetric_noise_goes_to_every_other_class_alike() -> None:
    labels = np.zeros(40_000, dtype=np.int64) + 2
    noisy = add_noise(labels, 5, Noise("symmetric", 0.4), stream(0, "noise"))
    shares = np.bincount(noisy, minlength=5) / len(labels)
    # Four standard errors of a share of 0.6 and of 0.1 in 40 000 rows.
    assert shares[2] == pytest.approx(0.6, abs=4 * (0.6 * 0.4 / 40_000) ** 0.5)
    assert np.delete(shares, 2) == pytest.approx(np.full(4, 0.1), abs=4 * (0.1 * 0.9 / 40_000) ** 0.5)


def test_asymmetric_noise_goes_to_the_next_class_and_round() -> None:
    labels = np.repeat(np.arange(3), 10_000)
    noisy = add_noise(labels, 3, Noise("asymmetric", 0.3), stream(0, "noise"))
    assert set(np.unique((noisy - labels) % 3)) == {0, 1}
    assert (noisy != labels).mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 30_000) ** 0.5)
    assert ((labels == 2) & (noisy == 0)).any()


def test_no_noise_is_a_copy() -> None:
    labels = np.arange(4)
    for noise in (None, Noise("symmetric", 0.0)):
        noisy = add_noise(labels, 4, noise, stream(0, "noise"))
        assert (noisy == labels).all()
        assert noisy is not labels


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.01])
def test_long_tail_is_exponential(ratio: float) -> None:
    labels = np.repeat(np.arange(4), 1000)
    sizes = np.bincount(labels[long_tail(labels, 4, ratio, stream(0, "imbalance"))])
    assert sizes.tolist() == [round(1000 * ratio ** (k / 3)) for k in range(4)]


def test_long_tail_keeps_its_profile_when_the_first_class_is_small() -> None:
    labels = np.repeat([0, 1], [100, 1000])
    kept = long_tail(labels, 2, 0.1, stream(0, "imbalance"))
    assert np.bincount(labels[kept]).tolist() == [100, 10]
    assert (np.diff(kept) > 0).all()


def test_every_class_keeps_a_row() -> None:
    labels = np.repeat([0, 1], [10, 10])
    assert np.bincount(labels[long_tail(labels, 2, 1e-6, stream(0, "imbalance"))])[1] == 1


def test_the_same_stream_gives_the_same_rows_and_another_seed_others() -> None:
    labels = np.repeat(np.arange(3), 100)
    noise = Noise("symmetric", 0.4)
    first, again, other = (add_noise(labels, 3, noise, stream(seed, "noise")) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert stream(0, "rows").random() != stream(0, "noise").random()


@pytest.mark.parametrize("text", ["symmetric:0.4", "asymmetric:0.3"])
def test_noise_prints_what_it_reads(text: str) -> None:
    assert str(Noise.parse(text)) == text


@pytest.mark.parametrize("text", ["symmetric", "symmetric:", "uniform:0.1", "symmetric:1.0", "symmetric:-0.1", "symmetric:nan", "x:y"])
def test_bad_noise_is_one_line(text: str) -> None:
    with pytest.raises(StudyError, match="noise") as caught:
        Noise.parse(text)
    assert "\n" not in str(caught.value)
