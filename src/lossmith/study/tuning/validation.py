"""What a tuner may see of a trial: what was measured on training and validation rows, and nothing else.

A configuration chosen by test rows makes every later number too good. So tuners and the rule that selects are handed a copy that never
held anything of the test rows, and asking it for them is an error, not an empty answer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lossmith.study.errors import StudyError

SEEN = (
    ("status", "seconds", "epochs", "last", "best"),  # of a record
    ("epoch", "train_loss", "calibration", "temperature", "val"),  # of an epoch
)
"""What may be seen, by name, at either depth; of ``val`` everything. Whatever else a record comes to hold stays out."""


class TestRowsError(StudyError):
    """A tuner asked for test results."""

    __test__ = False  # no test class, whatever pytest thinks of the name


class ValidationRecord(Mapping[str, Any]):
    """A trial's record without what was measured on test rows; asking for anything of that raises a `TestRowsError`."""

    __slots__ = ("_seen",)

    def __init__(self, record: Mapping[str, Any], depth: int = 0) -> None:
        self._seen = {name: _seen(name, record[name], depth) for name in SEEN[depth] if name in record}

    def __getitem__(self, name: str) -> Any:
        if name not in self._seen:
            raise TestRowsError(f"a tuner may not read {name!r}: test rows choose nothing; it may read {', '.join(self._seen)}")
        return self._seen[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)


def _seen(name: str, value: Any, depth: int) -> Any:
    """A part of a record as a copy: an epoch, or the epochs one after the other, without its test rows."""
    if depth == 0 and name == "epochs":
        return tuple(ValidationRecord(epoch, 1) for epoch in value)
    if depth == 0 and name in ("last", "best"):
        return ValidationRecord(value, 1)
    return dict(value) if name == "val" else value
