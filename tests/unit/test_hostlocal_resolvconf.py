"""resolvConf: what a resolver's configuration turns into."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pycni.errors import CNIError
from pycni.types import DNS
from pycni_hostlocal.resolvconf import parse_resolv_conf, read_resolv_conf

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
# a comment
; another
  nameserver 192.0.2.1
nameserver 2001:db8::1 ignored
nameserver
nameservers 192.0.2.9
domain example.org
domain example.com more
search a.example b.example
search c.example
options ndots:5
options rotate\ttimeout:2\r
sortlist 192.0.2.0/24
;nameserver 192.0.2.7"""


@pytest.mark.row("plugins", 133)
def test_every_line_counts() -> None:
    """Lists add up over lines, of domains the last counts, comments and unknown keywords are skipped."""
    assert parse_resolv_conf(TEXT) == DNS(
        ("192.0.2.1", "2001:db8::1"),
        "example.com",
        ("a.example", "b.example", "c.example"),
        ("ndots:5", "rotate", "timeout:2"),
    )


def test_an_empty_file_is_no_dns() -> None:
    """Nothing in the file means nothing in the result."""
    assert not parse_resolv_conf("\n# only a comment\n")


def test_a_file_is_read(tmp_path: Path) -> None:
    """The file's bytes are text, whatever they are."""
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver \xff\nsearch x\n")
    assert read_resolv_conf(str(path)) == DNS(("\ufffd",), "", ("x",), ())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a folder and an endless file are errors that name the path; a FIFO does not block."""
    with pytest.raises(CNIError, match=r"^open /nonexistent: no such file or directory"):
        read_resolv_conf("/nonexistent")
    with pytest.raises(CNIError, match=rf"^read {tmp_path}: is a directory"):
        read_resolv_conf(str(tmp_path))
    with pytest.raises(CNIError, match=r"^read /dev/zero: file too large"):
        read_resolv_conf("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    assert not read_resolv_conf(str(tmp_path / "fifo"))
