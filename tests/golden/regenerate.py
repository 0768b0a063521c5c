"""Record the golden values anew: `python -m tests.golden.regenerate [NAME ...]`, from the repository's root.

A moved number is a breaking change for somebody, so this refuses until CHANGELOG.md says under "Unreleased", naming the objective,
what moved and why. Files whose numbers did not move are left as they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.golden import recorder

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def unreleased(changelog: Path) -> str:
    """The text between the heading "Unreleased" and the next release's."""
    section = re.search(r"^## \[?Unreleased\]?.*?$(.*?)(?=^## |\Z)", changelog.read_text(), re.MULTILINE | re.DOTALL)
    return section.group(1) if section else ""


def main(names: list[str], folder: Path = recorder.VALUES, changelog: Path = CHANGELOG) -> int:
    cards = recorder.cards()
    recorded = {path.stem for path in folder.glob("*.json")}
    unknown = sorted(set(names) - set(cards) - recorded)
    if unknown:
        print(f"no objective is called {', '.join(unknown)}", file=sys.stderr)
        return 2
    wanted = set(names) or set(cards) | recorded
    new = {name: recorder.record(cards[name]) for name in sorted(wanted & set(cards))}
    changed = [
        name for name, values in new.items() if name not in recorded or any(recorder.differences(recorder.read(name, folder), values))
    ]
    gone = sorted((wanted & recorded) - set(cards))
    told = unreleased(changelog)
    untold = [name for name in [*changed, *gone] if not re.search(rf"(?<!\w){name}(?!\w)", told)]
    if untold:
        print(f"nothing written: {changelog.name} does not name under Unreleased: {', '.join(untold)}", file=sys.stderr)
        return 1
    for name in changed:
        recorder.write(name, new[name], folder)
        print(f"recorded {name}")
    for name in gone:
        (folder / f"{name}.json").unlink()
        print(f"removed {name}")
    print(f"{len(changed)} recorded, {len(gone)} removed, {len(new) - len(changed)} unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
