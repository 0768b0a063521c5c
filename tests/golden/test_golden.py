"""No objective's number moves unnoticed; and the way to move one on purpose works as it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import recorder, regenerate

CARDS = recorder.cards()
HOW = (
    "If that is meant: say so in CHANGELOG.md under Unreleased, naming `{name}`, then run "
    "`python -m tests.golden.regenerate {name}`. A moved number is a breaking change (CONTRIBUTING.md)."
)


@pytest.mark.parametrize("objective", CARDS)
def test_numbers_have_not_moved(objective: str) -> None:
    if not (recorder.VALUES / f"{objective}.json").exists():
        pytest.fail(f"{objective} has no golden values yet. " + HOW.format(name=objective), pytrace=False)
    moved = list(recorder.differences(recorder.read(objective), recorder.record(CARDS[objective])))
    if moved:
        pytest.fail(f"{objective}: numbers moved\n" + "\n".join(moved) + "\n" + HOW.format(name=objective), pytrace=False)


def test_no_objective_has_gone() -> None:
    gone = sorted({path.stem for path in recorder.VALUES.glob("*.json")} - set(CARDS))
    assert not gone, f"golden values of objectives that no longer exist: {gone}. " + HOW.format(name=gone[0])


def test_every_objective_takes_class_indices() -> None:
    """A recorder that called the objectives wrongly would record refusals, and then watch nothing."""
    refused = [name for name in CARDS if recorder.read(name)["float64"]["indices"] == "refused"]
    assert not refused


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with one objective's values, and a changelog that says nothing."""
    recorder.write("cross_entropy", recorder.record(CARDS["cross_entropy"]), tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [0.1.0]\n\n- `cross_entropy`\n")
    return tmp_path


def _move(shop: Path, by: float) -> None:
    path = shop / "cross_entropy.json"
    values = json.loads(path.read_text())
    values["float64"]["indices"]["gradient"][3] += by
    path.write_text(json.dumps(values))


def _regenerate(shop: Path) -> int:
    return regenerate.main(["cross_entropy"], shop, shop / "CHANGELOG.md")


def test_a_moved_number_is_found(shop: Path) -> None:
    _move(shop, 1e-10)
    (line,) = recorder.differences(recorder.read("cross_entropy", shop), recorder.record(CARDS["cross_entropy"]))
    assert line.startswith("float64, indices: gradient[3] was ")


def test_the_last_digit_may_move(shop: Path) -> None:
    _move(shop, 1e-15)
    assert not list(recorder.differences(recorder.read("cross_entropy", shop), recorder.record(CARDS["cross_entropy"])))


def test_regenerating_is_refused_without_a_changelog_entry(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry under an older release does not count."""
    _move(shop, 1e-3)
    before = (shop / "cross_entropy.json").read_bytes()
    assert _regenerate(shop) == 1
    assert capsys.readouterr().err.endswith("does not name under Unreleased: cross_entropy\n")
    assert (shop / "cross_entropy.json").read_bytes() == before


def test_regenerating_with_a_changelog_entry(shop: Path) -> None:
    _move(shop, 1e-3)
    changelog = shop / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## [0.1.0]", "- `cross_entropy` is negated.\n\n## [0.1.0]"))
    assert _regenerate(shop) == 0
    assert recorder.read("cross_entropy", shop) == recorder.record(CARDS["cross_entropy"])


def test_a_name_within_a_longer_name_is_not_an_entry(shop: Path) -> None:
    _move(shop, 1e-3)
    (shop / "CHANGELOG.md").write_text("## [Unreleased]\n\n- `generalized_cross_entropy`: new\n")
    assert _regenerate(shop) == 1
