"""Make executables of `launcher.c`: compile it once, then fill in a copy for each plugin.

A program that was compiled beforehand lies beside the source, under a name that says for which machine and
of which source; `python -m pycni.native.build` puts it there, and wheels may carry it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pycni.errors import CNIError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE: Final = Path(__file__).with_name("launcher.c")
COMPILERS: Final = ("cc", "gcc", "clang")
FLAGS: Final = ("-std=c11", "-Os", "-s", "-Wall", "-Wextra")
LINKING: Final = (("-static",), ())
"""Preferred first: a static program starts faster, but not every system has a static C library."""
PLACEHOLDER: Final = b"pycni-launcher-settings\0"
SETTINGS_BYTES: Final = 16384
"""The size of the array in `launcher.c` that the settings go to."""
_COMPILE_SECONDS: Final = 120


def choose(kind: str) -> tuple[bytes | None, str]:
    """The compiled program for `kind` (native, python or auto), None for Python's launcher; and, where auto
    means Python, why.

    Raises CNIError if `kind` is native and there can be no program.
    """
    if kind == "python":
        return None, ""
    try:
        return program(), ""
    except CNIError as error:
        if kind == "native":
            raise
        return None, str(error)


@cache
def program() -> bytes:
    """The program, compiled beforehand or now. Raises CNIError if there is no compiler or it fails."""
    try:
        return prebuilt().read_bytes()
    except FileNotFoundError:
        return compile_program()


def prebuilt() -> Path:
    """Where a program compiled beforehand of this very source for this machine would be."""
    digest = hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, LINKING)).encode()).hexdigest()
    return SOURCE.with_name(f"launcher-{os.uname().machine}-{digest[:16]}")


def compile_program(flags: Sequence[str] = FLAGS, linking: Sequence[tuple[str, ...]] = LINKING) -> bytes:
    """Compile now; raises CNIError with the compiler's words if no compiler manages it."""
    compilers = [found for name in COMPILERS if (found := shutil.which(name))]
    if not compilers:
        raise CNIError(
            "no C compiler for the native launcher",
            f"none of {', '.join(COMPILERS)} is on PATH; install one (Debian: gcc and libc6-dev) and run "
            "pycni install again, or take --launcher python",
        )
    said = ""
    with tempfile.TemporaryDirectory(prefix="pycni-") as folder:
        output = Path(folder, "launcher")
        for compiler in dict.fromkeys(map(os.path.realpath, compilers)):
            for link in linking:
                said = _compile([compiler, *flags, *link, "-o", str(output), str(SOURCE)])
                if output.exists():
                    return output.read_bytes()
    raise CNIError("the native launcher cannot be compiled", said)


def _compile(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_COMPILE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{command[0]}: exit status {done.returncode}: {' / '.join(words[-3:])}"


def fill(compiled: bytes, settings: Sequence[str], trailer: bytes) -> bytes:
    """An executable: the program with `settings` in it and `trailer` at its end.

    Raises CNIError if they do not fit, ValueError if `compiled` is no program of `launcher.c`.
    """
    if any("\0" in setting for setting in settings):
        raise ValueError(f"a NUL in {settings!r}")
    packed = b"".join([os.fsencode(setting) + b"\0" for setting in settings])
    if len(packed) > SETTINGS_BYTES:
        raise CNIError(
            f"the paths that Python imports from do not fit in a native launcher: {len(packed)} bytes",
            f"the limit is {SETTINGS_BYTES}; take --launcher python",
        )
    before, placeholder, after = compiled.partition(PLACEHOLDER.ljust(SETTINGS_BYTES, b"\0"))
    if not placeholder or PLACEHOLDER in after:
        raise ValueError("no native launcher: the place for its settings is not there, or not the only one")
    return before + packed.ljust(SETTINGS_BYTES, b"\0") + after + trailer


if __name__ == "__main__":
    target = prebuilt()
    target.write_bytes(compile_program())
    target.chmod(0o755)
    print(target)
