"""Sysctls: read, written where different, read back, in the namespace of the thread."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from pycni.kernel import netns, sysctl

if TYPE_CHECKING:
    from pathlib import Path

    from support.netns import NetNS

FORWARD = "net/ipv4/ip_forward"


def test_a_value_is_written_once(host: NetNS) -> None:
    """True if it was another one; the second time nothing changes."""
    with host.inside():
        assert sysctl.read(FORWARD) == "0"
        assert sysctl.write(FORWARD, "1") is True
        assert sysctl.write(FORWARD, "1") is False
        assert sysctl.write(FORWARD, "1", always=True) is False
        assert sysctl.read(FORWARD) == "1"


def test_only_the_threads_namespace_is_touched(host: NetNS) -> None:
    """The same name means another setting outside."""
    outside = sysctl.read(FORWARD)
    fd = netns.open_namespace(str(host.path))
    try:
        netns.inside(fd, sysctl.write, FORWARD, "1" if outside == "0" else "0")
    finally:
        os.close(fd)
    assert sysctl.read(FORWARD) == outside


def test_dots_in_interface_names_mean_themselves(host: NetNS) -> None:
    """eth0.5 is one interface, not two parts of a path."""
    host.run("ip", "link", "add", "eth0.5", "type", "bridge")
    with host.inside():
        assert sysctl.write("net/ipv6/conf/eth0.5/accept_ra", "0") is True
        assert sysctl.read("net/ipv6/conf/eth0.5/accept_ra") == "0"


def test_values_of_several_words_compare_by_words(host: NetNS) -> None:
    """The kernel prints tabs where people write blanks."""
    with host.inside():
        assert sysctl.read("net/ipv4/ip_local_port_range").split() == ["32768", "60999"]
        assert sysctl.write("net/ipv4/ip_local_port_range", "32768 60999") is False
        assert sysctl.write("net/ipv4/ip_local_port_range", "20000 30000") is True


def test_what_the_kernel_refuses_is_an_oserror(host: NetNS) -> None:
    """A missing interface, and a value out of bounds."""
    with host.inside():
        with pytest.raises(FileNotFoundError):
            sysctl.read("net/ipv6/conf/none/accept_ra")
        with pytest.raises(FileNotFoundError):
            sysctl.write("net/ipv6/conf/none/accept_ra", "0")
        with pytest.raises(OSError, match="Invalid argument") as caught:
            sysctl.write(FORWARD, "often")
        assert caught.value.errno == errno.EINVAL


def test_many_write_the_same_at_once(host: NetNS) -> None:
    """Whoever waits for the RTNL lock shows the old value for a moment; nobody takes that for a refusal."""
    for _ in range(20):
        with host.inside():
            sysctl.write(FORWARD, "0")
        failures: list[OSError] = []
        threads = [threading.Thread(target=_forward, args=(host, failures)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def _forward(host: NetNS, failures: list[OSError]) -> None:
    try:
        with host.inside():
            sysctl.write(FORWARD, "1")
    except OSError as error:
        failures.append(error)


@pytest.mark.parametrize("name", ["", "/", "net/../kernel/hostname", "./net", "net//ipv4", "net/ipv4/a\0b"])
def test_names_stay_below_proc_sys(name: str) -> None:
    """A name that would climb out, or is none, is refused before any file is opened."""
    for use in (lambda: sysctl.read(name), lambda: sysctl.write(name, "1")):
        with pytest.raises(OSError, match="Invalid argument") as caught:
            use()
        assert caught.value.errno == errno.EINVAL


@pytest.mark.row("plugins", 151)
def test_a_right_value_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only mounts of /proc/sys do no harm where nothing is to be changed."""
    monkeypatch.setattr(sysctl, "ROOT", f"{tmp_path}/")
    key = tmp_path / "key"
    key.write_text("1\n")
    os.utime(key, (0, 0))
    sysctl.write("key", "1")
    assert key.stat().st_mtime == 0
    sysctl.write("key", "1", always=True)
    assert key.stat().st_mtime != 0


def test_a_value_that_does_not_stick_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is read back."""
    monkeypatch.setattr(sysctl, "ROOT", f"{tmp_path}/")
    (tmp_path / "key").symlink_to("/dev/null")
    with pytest.raises(OSError, match="wrote '1' but it reads ''") as caught:
        sysctl.write("key", "1")
    assert caught.value.errno == errno.EINVAL
