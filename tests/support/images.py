"""Container images made on the spot from Debian's static busybox: no registry, no network."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "sleep", "ping", "ip", "cat")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _archive(files: dict[str, bytes], folders: tuple[str, ...] = (), links: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for name in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return buffer.getvalue()


def write_image(path: Path, name: str, *entrypoint: str) -> None:
    """Write a docker-archive with one layer to `path`; raises FileNotFoundError without busybox-static."""
    with open(BUSYBOX, "rb") as busybox:
        layer = _archive(
            {"bin/busybox": busybox.read(), "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n"},
            ("bin", "etc", "proc", "sys", "dev", "tmp"),
            tuple(f"bin/{applet}" for applet in APPLETS),
        )
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config_text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config_text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer, config_name: config_text, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(_archive(files))
