"""How the command prints: a console, JSON, and a heading; text from cards and data is never read as markup."""

import json
import math
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 120
"""Columns when the output is no terminal and nothing says how wide to be."""


def console(*, stderr: bool = False) -> Console:
    """Where a command prints: the terminal's own width, or a fixed one in a pipe, so that tables are not squeezed there."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def heading(text: str) -> Text:
    return Text(text, style="bold")


def fields(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names, dim, beside their values, which wrap in their own column."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), Text(value))
    return table


def print_json(value: Any) -> None:
    """Plain JSON on stdout, without colours or wrapping, for another program to read; what is not finite becomes null."""
    json.dump(_plain(value), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
