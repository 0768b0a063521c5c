"""How files of a report come to be: whole, or not at all."""

import os
from pathlib import Path

from lossmith.study.errors import StudyError


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside its place and move it there, so that a full disk or an interruption leaves an old one whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise StudyError(f"the report cannot be written to {path.parent}: {error.strerror or error}") from error
    return path
