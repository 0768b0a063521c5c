"""Image files as arrays of one size."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lossmith.study.errors import StudyError, one_line

SIZE = 32
"""Pixels a side, where nothing is said."""

COLOURS = {"grey": "L", "gray": "L", "rgb": "RGB"}
NAMED = 3
"""How many damaged files a message names."""


@dataclass(frozen=True)
class Look:
    """How images are read.

    Attributes:
        size: pixels a side: the largest square in the middle of an image is scaled to it.
        colour: ``L`` or ``RGB``; None takes grey where every image is, else colour.
        skip: whether damaged files are left out instead of refused.
    """

    size: int = SIZE
    colour: str | None = None
    skip: bool = False


def parse_look(text: str) -> tuple[str, Look, list[str]]:
    """``PATH@64@grey@skip`` as what stands in front, the look, and the words that say nothing of it; a path that exists is one."""
    if Path(text).expanduser().exists():
        return text, Look(), []
    name, *words = text.split("@")
    size, colour, skip, rest = SIZE, None, False, []
    for word in words:
        if word.isdecimal():
            size = int(word)
        elif word.lower() in COLOURS:
            colour = COLOURS[word.lower()]
        elif word == "skip":
            skip = True
        else:
            rest.append(word)
    if size < 1:
        raise StudyError(f"the size of images must be a whole number >= 1; got {text!r}")
    return name, Look(size, colour, skip), rest


@dataclass(frozen=True, eq=False)
class Images:
    """What was read: pixels in [0, 1], `(n, channels, size, size)`, of the files at these positions, and a sentence on what was done."""

    pixels: NDArray[np.float32]
    kept: NDArray[np.int64]
    notes: tuple[str, ...]


def read_images(files: Sequence[Path | bytes | None], names: Sequence[str], look: Look, where: str) -> Images:
    """Read, crop and scale images.

    Args:
        files: paths, or the bytes of files; None for one that is missing.
        names: what messages call them.
        look: how.
        where: what messages call the data.
    """
    read: list[NDArray[np.uint8]] = []
    kept: list[int] = []
    damaged: list[str] = []
    first = ""
    for i, file in enumerate(files):
        try:
            read.append(_square(file, look))
            kept.append(i)
        except Exception as error:  # PIL raises a dozen kinds for a damaged file
            damaged.append(names[i])
            first = first or one_line(error, 120)
    listed = ", ".join(damaged[:NAMED]) + (f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else "")
    if damaged and not look.skip:
        raise StudyError(f"{where}: {listed} cannot be read as images ({first}); remove them, or leave such files out with @skip")
    if not read:
        raise StudyError(f"{where}: there are no images")
    grey = look.colour == "L" or (look.colour is None and all(_is_grey(image) for image in read))
    pixels = np.stack([image.transpose(2, 0, 1)[: 1 if grey else 3] for image in read]).astype(np.float32) / np.float32(255)
    notes = [f"the square in the middle of every image, scaled to {look.size} x {look.size} pixels, {'grey' if grey else 'in colour'}"]
    if damaged:
        notes.append(f"{len(damaged)} files cannot be read as images and were left out: {listed}")
    return Images(pixels, np.array(kept, dtype=np.int64), tuple(notes))


def _square(file: Path | bytes | None, look: Look) -> NDArray[np.uint8]:
    """An image `(size, size, 3)`."""
    from PIL import Image, ImageOps

    if file is None:
        raise StudyError("it is missing")
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits a pixel, which convert would clip to 255
            image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
        image = image.convert(look.colour or "RGB").convert("RGB")
        return np.asarray(ImageOps.fit(image, (look.size, look.size), Image.Resampling.BILINEAR))


def _is_grey(image: NDArray[np.uint8]) -> bool:
    return bool((image == image[..., :1]).all())
