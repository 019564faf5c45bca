"""The machine and the versions: what a reader must know to compare figures."""

from __future__ import annotations

import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def machine_facts(reference: Path) -> dict[str, object]:
    """What a reader must know to compare figures: date, kernel, processors, versions, load."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "processors": _processors(),
        "python": platform.python_version(),
        "pycni": version("pycni"),
        "reference": f"{reference} ({_reference_version(reference)})",
        "load before": Path("/proc/loadavg").read_text().split()[0],
    }


def _processors() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0]}" if models else platform.machine()


def _reference_version(reference: Path) -> str:
    """The plugin's own words, which name a version only if its builder put one in."""
    told = subprocess.run([reference / "bridge"], env={}, capture_output=True, text=True, check=False).stderr
    first = told.strip().splitlines()[0] if told.strip() else "version unknown"
    if reference != Path("/usr/lib/cni") or shutil.which("dpkg-query") is None:
        return first
    query = ["dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"]
    package = subprocess.run(query, capture_output=True, text=True, check=False)
    return f"{first}, Debian {package.stdout}" if package.returncode == 0 else first
