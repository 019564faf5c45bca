"""Write one executable for each registered plugin into a folder of CNI plugins.

All or nothing as far as can be seen beforehand: everything is checked before the first file is written, and
each file appears complete (temporary file, fsync, rename) or not at all.
"""

from __future__ import annotations

import os
import py_compile
import stat
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pycni
from pycni import launcher as launcher_module
from pycni.attachments import RUN_DIR
from pycni.delegate import MARKER, ROOT, read_launcher
from pycni.errors import CNIError
from pycni.native import build
from pycni.wire.json import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GROUP: Final = "pycni.plugins"
KEPT_SUFFIX: Final = ".orig"
_SHEBANG_LIMIT: Final = 255
"""Bytes of a first line that the kernel reads (BINPRM_BUF_SIZE, <linux/binfmts.h>, since 5.1)."""
_SOCKET_PATH_LIMIT: Final = 107
"""Bytes of a socket's path (sun_path of <sys/un.h>, less its NUL)."""


@dataclass(frozen=True)
class Written:
    """What became, or would become, of one file; `what` is created, replaced or unchanged, `kept` a copy."""

    path: Path
    what: str
    kept: Path | None = None


def install(
    bin_dir: Path | str,
    run_dir: Path | str = RUN_DIR,
    *,
    compiled: bytes | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> list[Written]:
    """Write the launchers of all plugins registered in the entry point group `pycni.plugins`.

    Native ones if `compiled` is given (see `pycni.native.build.choose`), else such that start Python. Raises
    CNIError if the folder is missing, or if a file is in the way that pycni did not write and `force` is not
    given; then nothing was written. With `force` such a file is kept beside as `NAME.orig`.
    """
    files: dict[str, str | bytes] = {}
    for point in registered_plugins():
        if compiled is None:
            files[point.name] = launcher_text(point.name, point.value, run_dir=run_dir)
        else:
            files[point.name] = native_launcher(compiled, point.name, point.value, run_dir=run_dir)
    return write_launchers(Path(bin_dir), files, force=force, dry_run=dry_run)


def registered_plugins() -> list[Plugin]:
    """The entry points of the group, by name. Raises CNIError for a name that comes twice or is no file's."""
    found: dict[str, Plugin] = {}
    for point in entry_points(group=GROUP):
        if "/" in point.name or point.name in ("", ".", ".."):
            raise CNIError(f'plugin name "{point.name}" cannot be a file name', f"entry point {point.value}")
        other = found.setdefault(point.name, Plugin(point.name, point.value))
        if other.value != point.value:
            raise CNIError(
                f'plugin "{point.name}" is registered twice',
                f"as {other.value} and as {point.value}; remove one of the distributions",
            )
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True)
class Plugin:
    """A registered plugin: the executable's name and `module:attribute`."""

    name: str
    value: str


def launcher_text(
    plugin: str,
    ref: str,
    *,
    paths: Iterable[str] | None = None,
    run_dir: Path | str = RUN_DIR,
    python: str = "",
) -> str:
    """The text of the executable for `ref` (`module:attribute`).

    `paths` go to the end of its sys.path, after the folder of pycni; by default what this interpreter has.
    `run_dir` is where the agent's socket and the attachments' locks are.
    """
    check_run_dir(run_dir)
    return _TEXT.format(
        start=_first_lines(python or interpreter()),
        marker=_marker(plugin, ref),
        loader=ascii(launcher_module.__file__),
        arguments=_arguments(plugin, ref, run_dir, paths),
        failure=ascii(_absent()),
    )


def native_launcher(
    compiled: bytes,
    plugin: str,
    ref: str,
    *,
    paths: Iterable[str] | None = None,
    run_dir: Path | str = RUN_DIR,
    python: str = "",
) -> bytes:
    """The native executable for `ref`: a copy of the `compiled` program, told the same as `launcher_text`.

    The settings' order is that of the enumeration in `launcher.c`. Raises CNIError if they do not fit.
    """
    text = _TAKEOVER.format(arguments=_arguments(plugin, ref, run_dir, paths), failure=ascii(_absent()))
    told = (release(), plugin, ref, check_run_dir(run_dir))
    settings = (*told, python or interpreter(), text, _absent().decode())
    return build.fill(compiled, settings, f"\n{_marker(plugin, ref)}\n".encode())


def check_run_dir(run_dir: Path | str) -> str:
    """The path of the agent's socket. Raises CNIError if it is too long for one."""
    socket_path = f"{run_dir}/agent.sock"
    if len(os.fsencode(socket_path)) > _SOCKET_PATH_LIMIT:
        raise CNIError(
            f"run directory {run_dir} is too long",
            f"{socket_path} must have at most {_SOCKET_PATH_LIMIT} bytes to be a socket's path",
        )
    return socket_path


def _marker(plugin: str, ref: str) -> str:
    members = {"plugin": plugin, "ref": ref, "version": pycni.__version__, "root": ROOT}
    return MARKER.decode() + dumps(members).decode()


def _arguments(plugin: str, ref: str, run_dir: Path | str, paths: Iterable[str] | None) -> str:
    roots = list(dict.fromkeys([ROOT, *(import_paths() if paths is None else map(str, paths))]))
    return ", ".join(ascii(argument) for argument in (plugin, ref, release(), str(run_dir), roots))


def release() -> str:
    """What an agent and a launcher must agree on: version and folder of the installation."""
    return f"{pycni.__version__} {ROOT}"


_TEXT: Final = """{start}
{marker}
# Written by `pycni install`. The code is in the folder that the line above names.
import posix
try:
    from _frozen_importlib_external import SourceFileLoader
    launcher = {{"__name__": "pycni.launcher"}}
    exec(SourceFileLoader("pycni.launcher", {loader}).get_code("pycni.launcher"), launcher)
except BaseException:
    posix.write(1, {failure})
    posix._exit(1)
launcher["run"]({arguments})
"""
_TAKEOVER: Final = """import sys
facts = ({arguments})
try:
    sys.path += [root for root in facts[-1] if root not in sys.path]
    from pycni.native.takeover import take_over
except BaseException:
    import posix
    posix.write(1, {failure})
    posix._exit(1)
take_over(*facts)
"""


def _absent() -> bytes:
    members = {
        "code": 999,
        "msg": "pycni is not installed where this launcher expects it",
        "details": f"it was installed from {ROOT}; run pycni install again, or remove this executable",
    }
    return dumps(members, indent="    ")


def _first_lines(python: str) -> str:
    """`-I`: no PYTHON* variables, no user folder; `-S`: no site folders, they are recorded instead; and UTF-8
    whatever the locale, so that names mean the same here as in the agent."""
    line = f"#!{python} -ISXutf8"
    if not any(char.isspace() for char in python) and len(os.fsencode(line)) < _SHEBANG_LIMIT:
        return line
    # The kernel cuts at blanks and at its limit. To sh the second line is a command, to Python a string.
    quoted = python.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f"#!/bin/sh\n'''exec' \"{quoted}\" -ISXutf8 \"$0\" \"$@\" #'''"


def interpreter() -> str:
    """This interpreter by its fullest name: `python` and `python3` of one environment are the same."""
    full = os.path.join(os.path.dirname(sys.executable), f"python{sys.version_info[0]}.{sys.version_info[1]}")
    return full if os.path.exists(full) and os.path.samefile(full, sys.executable) else sys.executable


def import_paths() -> list[str]:
    """The folders of third-party modules that this interpreter imports from (editable installs included)."""
    own = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts")}
    paths = []
    for entry in sys.path:
        real = os.path.realpath(entry)
        if (
            os.path.isabs(entry)
            and os.path.isdir(entry)
            and real not in own
            and not real.endswith("/lib-dynload")
        ):
            paths.append(entry)
    return paths


def write_launchers(
    bin_dir: Path, launchers: Mapping[str, str | bytes], *, force: bool = False, dry_run: bool = False
) -> list[Written]:
    """Write `launchers` (name → text or program) as executables; see `install` for what is refused."""
    if not bin_dir.is_dir():
        raise CNIError(
            f"plugin folder {bin_dir} does not exist", "create it first, or name another by --bin-dir"
        )
    files = {name: data.encode() if isinstance(data, str) else data for name, data in launchers.items()}
    plans = [_plan(bin_dir / name, data, force) for name, data in files.items()]
    if dry_run:
        return plans
    py_compile.compile(launcher_module.__file__, quiet=1)
    for plan in plans:
        if plan.kept is not None:
            os.link(plan.path, plan.kept)
        if plan.what != "unchanged":
            _write(plan.path, files[plan.path.name])
    _sync(bin_dir)
    return plans


def _plan(path: Path, data: bytes, force: bool) -> Written:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return Written(path, "created")
    if stat.S_ISDIR(status.st_mode):
        raise CNIError(f"{path} is a folder", "a plugin's executable should come there")
    if stat.S_ISREG(status.st_mode) and read_launcher(str(path)) is not None:
        same = path.read_bytes() == data and stat.S_IMODE(status.st_mode) == 0o755
        return Written(path, "unchanged" if same else "replaced")
    if not force:
        raise CNIError(
            f"{path} was not written by pycni",
            f"--force replaces it and keeps it as {path.name}{KEPT_SUFFIX}; or choose another folder",
        )
    kept = path.with_name(path.name + KEPT_SUFFIX)
    if os.path.lexists(kept):
        raise CNIError(f"{path} cannot be kept: {kept} exists already", "move one of them away")
    return Written(path, "replaced", kept)


def _write(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o755)
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
