"""How the command speaks: errors, notes, tables for people; JSON for programs; colour on terminals only."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from pycni.errors import IO_FAILURE, CNIError
from pycni.wire.json import dumps

_CODES = {"red": "31", "yellow": "33", "dim": "2", "bold": "1"}


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """The option `-o`, the same for all subcommands."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("text", "json"),
        default="text",
        help="for people (default) or for programs",
    )


def paint(text: str, style: str, stream: TextIO) -> str:
    """The text in a style (red, yellow, dim, bold) if the stream is a terminal that may be coloured."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def printable(text: str) -> str:
    """The text with control characters shown as escapes: it may come from a plugin or a file."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def print_error(error: CNIError, output: str = "text") -> None:
    """One line on standard error, or with `-o json` the contract's error object on standard output."""
    if output == "json":
        try:
            print_json(error_members(error))
            return
        except CNIError:
            pass  # standard output is what failed
    print(f"{paint('pycni:', 'red', sys.stderr)} {printable(str(error))}", file=sys.stderr)


def print_note(text: str) -> None:
    """A remark on standard error that is not a failure."""
    print(f"{paint('pycni:', 'yellow', sys.stderr)} {printable(text)}", file=sys.stderr)


def error_members(error: CNIError) -> dict[str, object]:
    """An error as the contract's object."""
    members: dict[str, object] = {"code": error.code, "msg": error.msg}
    if error.details:
        members["details"] = error.details
    return members


def print_json(document: object) -> None:
    """The document, four blanks per level, and a line feed."""
    print_bytes(dumps(document, indent="    "))


def print_text(text: str) -> None:
    """The text and a line feed on standard output."""
    print_bytes(text.encode("utf-8", "replace"))


def print_bytes(document: bytes) -> None:
    """These bytes and a line feed on standard output, at once, so that a failure is known here.

    Raises BrokenPipeError if the reader is gone, CNIError (code 5) for other failures.
    """
    rest = document + b"\n"
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise CNIError(f"failed to write standard output: {cause}", code=IO_FAILURE) from error


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks apart, without trailing blanks."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
