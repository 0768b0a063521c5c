"""Images in folders that are named after their classes, perhaps within folders train, validation and test."""

from pathlib import Path

import numpy as np

from lossmith.study.data.dataset import PARTS, WRITTEN, Dataset
from lossmith.study.data.images import Images, Look, parse_look, read_images
from lossmith.study.errors import StudyError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


def load_folder(text: str) -> Dataset:
    """Read ``PATH/CLASS/image.png``, or ``PATH/train/CLASS/image.png`` and so on, which is the user's own split.

    Args:
        text: the path, and after ``@`` the size in pixels, ``grey`` or ``rgb``, and ``skip`` to leave damaged files out:
            ``pictures@64@grey``.
    """
    name, look, unknown = parse_look(text)
    where, root = f"folder:{name}", Path(name).expanduser()
    if unknown:
        raise StudyError(f"{where}: after @ comes a size in pixels, grey, rgb or skip; got {unknown[0]!r}")
    if not root.is_dir():
        raise StudyError(f"{where}: there is no such folder")
    inside = _folders(root)
    named = {folder.name.lower() for folder in inside}
    split = bool(named) and named <= set(WRITTEN)
    if split and not {0, 2} <= {WRITTEN[one] for one in named}:
        raise StudyError(f"{where} has the folders {', '.join(sorted(named))}; a split needs train and test: name one, as in {where}/train")
    tops = [(WRITTEN[folder.name.lower()], folder) for folder in inside] if split else [(0, root)]
    files, classes, parts, other = [], [], [], 0
    for part, top in tops:
        for folder in _folders(top):
            for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
                if file.suffix.lower() not in ENDINGS:
                    other += 1
                    continue
                files.append(file)
                classes.append(folder.name)
                parts.append(part)
    if not files:
        raise StudyError(f"{where}: there are no images in folders named after their classes ({', '.join(ENDINGS)})")
    paths = [str(file.relative_to(root)) for file in files]
    found = read_images(files, paths, look, where)
    names, labels = np.unique(np.array(classes)[found.kept], return_inverse=True)
    notes = [*found.notes, *([f"{other} files are no images and were left out"] if other else [])]
    own = np.array(parts, dtype=np.int64)[found.kept] if split else None
    if own is not None:
        notes.append(f"the folders' own split ({', '.join(f'{int((own == p).sum())} {part}' for p, part in enumerate(PARTS))})")
    return Dataset(
        root.resolve().name, found.pixels, labels.astype(np.int64), tuple(map(str, names)), notes=tuple(notes), parts=own,
        files=tuple(paths[i] for i in found.kept),
    )  # fmt: skip


def load_images(text: str, look: Look) -> Images:
    """All images in a folder and in those within it, of whatever class.

    Args:
        text: the path, and after ``@`` what overrides the look.
        look: how they are read where the text says nothing.
    """
    name, _, words = text.partition("@") if not Path(text).expanduser().exists() else (text, "", "")
    where, root = f"folder:{name}", Path(name).expanduser()
    if words:
        _, asked, unknown = parse_look(text)
        if unknown:
            raise StudyError(f"{where}: after @ comes a size in pixels, grey, rgb or skip; got {unknown[0]!r}")
        sized = any(word.isdecimal() for word in words.split("@"))
        look = Look(asked.size if sized else look.size, asked.colour or look.colour, asked.skip)
    if not root.is_dir():
        raise StudyError(f"{where}: there is no such folder")
    files = sorted(file for file in root.rglob("*") if _is_image(file))
    if not files:
        raise StudyError(f"{where}: there are no images ({', '.join(ENDINGS)})")
    return read_images(files, [str(file.relative_to(root)) for file in files], look, where)


def _is_image(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.suffix.lower() in ENDINGS


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
