"""The runtime's memory of attachments (pycni.runtime.cache), beside files that libcni wrote."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest
from chain_recorder import Recorder

from pycni.errors import CNIError
from pycni.runtime import Attachment, Cache, Entry, parse_list
from pycni.runtime.cache import decode, encode

GOLDEN = Path(__file__).parent / "golden"
KEY = ("net1", "cid1", "eth0")
ENTRY = Entry(*KEY, netns="/run/netns/cid1", config=b"{}\n", result={"cniVersion": "1.1.0"})


def golden(name: str) -> tuple[dict[str, Any], bytes]:
    """A recorded case, and the content of the one cache file that libcni left there."""
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    (file,) = case["cache_files"].values()
    config = base64.b64encode(case["request"]["list_text"].encode()).decode()
    return case, file["content"].replace("$CONFIG_BASE64", config).encode()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "lib" / "cni"))


@pytest.mark.row("contract", 74)
@pytest.mark.parametrize("name", ["libcni-cache-with-args", "libcni-cache-0.4.0-plain"])
def test_an_add_leaves_the_file_that_libcni_leaves(tmp_path: Path, name: str) -> None:
    """Same request, same answers of the plugins: same file name, bytes and modes."""
    case, content = golden(name)
    recorder = Recorder(tmp_path)
    recorder.plugins("bridge", "loopback")
    for plugin in ("bridge", "loopback"):
        recorder.answer(plugin, "ADD", f"cat <<'END'\n{case['stdout']}\nEND\n")
    given = case["request"]["runtime"]
    attachment = Attachment(
        given["containerID"],
        given["netns"],
        given["ifName"],
        tuple((key, value) for key, value in given["args"]),
        given["capabilityArgs"],
    )
    network = parse_list(case["request"]["list_text"].encode())
    before = os.umask(0o077)
    try:
        anyio.run(recorder.runtime().add, network, attachment)
    finally:
        os.umask(before)
    ((relative, file),) = case["cache_files"].items()
    written = tmp_path / "cache" / relative
    assert written.read_bytes() == content
    assert f"{stat.S_IMODE(written.stat().st_mode):o}" == file["mode"]
    for folder, mode in case["cache_directory_modes"].items():
        assert f"{stat.S_IMODE((tmp_path / 'cache' / folder).stat().st_mode):o}" == mode
    anyio.run(recorder.runtime().delete, network, attachment)
    assert recorder.cached == case["cache_files_after_del"]


@pytest.mark.row("contract", 75)
@pytest.mark.parametrize("name", ["libcni-cache-with-args", "libcni-cache-0.4.0-plain"])
def test_a_file_of_libcni_is_read_to_the_last_member(name: str) -> None:
    """What libcni wrote and we read, we would write again byte for byte."""
    case, content = golden(name)
    entry = decode(content)
    assert encode(entry) == content
    assert entry.key == ("goldnet", "pod-one", "eth0")
    assert entry.config.decode() == case["request"]["list_text"]
    assert [list(pair) for pair in entry.args] == case["request"]["runtime"]["args"]


def test_integers_in_capability_arguments_stay_exact() -> None:
    """A number beyond 2^53 is written and read to the last digit."""
    entry = ENTRY.replace(capability_args={"big": 2**63 + 1})
    assert decode(encode(entry)) == entry


@pytest.mark.row("contract", 74)
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_private_whatever_the_umask(cache: Cache, umask: int) -> None:
    """Directories get 0700, parents too, and files 0600."""
    before = os.umask(umask)
    try:
        cache.write(ENTRY)
    finally:
        os.umask(before)
    folder = Path(cache.directory)
    assert stat.S_IMODE((folder / "results" / "net1-cid1-eth0").stat().st_mode) == 0o600
    for made in (folder / "results", folder, folder.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_writing_again_replaces_as_a_whole(cache: Cache) -> None:
    """A second ADD's file takes the place of the first; whoever has the first open reads it to its end."""
    cache.write(ENTRY)
    with open(cache.path(*KEY), "rb") as reader:
        cache.write(ENTRY.replace(netns="/other"))
        assert decode(reader.read()) == ENTRY
    assert cache.read(*KEY) == ENTRY.replace(netns="/other")
    assert os.listdir(cache.results) == ["net1-cid1-eth0"]


def test_a_failed_write_leaves_what_was_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fails, the old file stays whole, no temporary file stays, and the error says where."""
    cache.write(ENTRY)

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CNIError, match=r"failed to write cache .*net1-cid1-eth0: no space left") as caught:
        cache.write(ENTRY.replace(netns="/other"))
    assert caught.value.code == 5
    assert cache.read(*KEY) == ENTRY
    assert os.listdir(cache.results) == ["net1-cid1-eth0"]


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (("../n", "cid1", "eth0"), 7),
        (("", "cid1", "eth0"), 7),
        (("net1", "x/../../victim", "eth0"), 4),
        (("net1", "", "eth0"), 4),
        (("net1", "cid1", "../eth0"), 4),
        (("net1", "cid1", ""), 4),
        (("net1", "c" * 260, "eth0"), 5),
    ],
)
def test_no_name_leads_out_of_the_folder(cache: Cache, key: tuple[str, str, str], code: int) -> None:
    """Reading, writing and removing refuse names that could be paths, and names too long for a file."""
    for attempt in (cache.read, cache.remove, cache.check_free, lambda *it: cache.write(Entry(*it))):
        with pytest.raises(CNIError) as caught:
            attempt(*key)
        assert caught.value.code == code
    assert not os.path.exists(cache.directory)


def test_the_longest_file_name_fits(cache: Cache) -> None:
    """255 bytes are a file name, 256 are refused."""
    longest = "c" * (255 - len("net1--eth0"))
    cache.write(ENTRY.replace(container_id=longest))
    assert cache.read("net1", longest, "eth0") is not None
    with pytest.raises(CNIError, match="256 bytes"):
        cache.path("net1", longest + "c", "eth0")


def test_an_ambiguous_file_name_belongs_to_whoever_wrote_it(cache: Cache) -> None:
    """`a` + `b-c` and `a-b` + `c` share a file name: the second is told, and cannot read or remove it."""
    first, second = ("a", "b-c", "eth0"), ("a-b", "c", "eth0")
    cache.write(Entry(*first, result={"cniVersion": "1.1.0"}))
    assert cache.path(*first) == cache.path(*second)
    assert cache.read(*second) is None
    cache.remove(*second)
    cache.check_free(*first)
    with pytest.raises(CNIError, match="belongs to another attachment") as caught:
        cache.check_free(*second)
    assert "'b-c'" in caught.value.details
    assert cache.read(*first) is not None


@pytest.mark.row("contract", 75)
@pytest.mark.parametrize(
    ("content", "result"),
    [
        (b'{"cniVersion":"0.4.0","ips":[]}', {"cniVersion": "0.4.0", "ips": []}),
        (b'{"kind":"other","result":{"cniVersion":"1.0.0"}}', None),
        (b"{}", {}),
        (b'{"kind":"cniCacheV1","networkName":"net1","containerId":"cid1","ifName":"eth0"}', {}),
    ],
)
def test_older_forms_are_read_as_bare_results(cache: Cache, content: bytes, result: Any) -> None:
    """A file that is JSON but not of the form is itself the result; its name says whose."""
    cache.write(ENTRY)
    Path(cache.path(*KEY)).write_bytes(content)
    entry = cache.read(*KEY)
    assert entry is not None
    assert entry.key == KEY
    assert entry.result == (json.loads(content) if result is None else result)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        b"[]",
        b'{"kind":"cniCacheV1","result":[]}',
        b'{"kind":"cniCacheV1","netns":5}',
        b'{"kind":"cniCacheV1","config":"?"}',
        b'{"kind":"cniCacheV1","cniArgs":[["A"]]}',
    ],
)
def test_a_broken_file_is_an_error_to_read_and_no_obstacle(cache: Cache, content: bytes) -> None:
    """Reading says that it is broken; writing replaces it and removing removes it."""
    cache.write(ENTRY)
    file = Path(cache.path(*KEY))
    file.write_bytes(content)
    with pytest.raises(CNIError, match="broken cache file"):
        cache.read(*KEY)
    cache.check_free(*KEY)
    cache.remove(*KEY)
    assert not file.exists()
    cache.remove(*KEY)


def test_an_unreadable_file_is_not_taken_for_a_missing_one(cache: Cache) -> None:
    """An error of the file system is told, not taken for an attachment that nobody knows."""
    cache.write(ENTRY)
    file = Path(cache.path(*KEY))
    file.unlink()
    file.mkdir()
    with pytest.raises(CNIError, match="failed to read cache") as caught:
        cache.read(*KEY)
    assert caught.value.code == 5


def test_the_list_has_what_can_be_used_in_order(cache: Cache) -> None:
    """All attachments by file name, or one container's; strange files are passed over."""
    assert cache.entries() == ()
    keys = [("net1", "b", "eth0"), ("net1", "a", "eth1"), ("net1", "a", "eth0"), ("net2", "a", "eth0")]
    for key in keys:
        cache.write(Entry(*key))
    results = Path(cache.results)
    (results / "net1-zz-eth0").write_bytes(b"{")
    (results / "net1-yy-eth0").write_bytes(b'{"cniVersion":"1.0.0"}')
    (results / "net1-xx-eth0").write_bytes(encode(Entry("net1", "other", "eth0")))
    (results / "folder").mkdir()
    assert [entry.key for entry in cache.entries()] == sorted(keys)
    assert [entry.key for entry in cache.entries("a")] == sorted(key for key in keys if key[1] == "a")


def test_a_folder_that_cannot_be_listed_is_an_error(cache: Cache) -> None:
    """Only a missing folder is an empty one."""
    Path(cache.directory).mkdir(parents=True)
    Path(cache.results).write_text("")
    with pytest.raises(CNIError, match="failed to list cache"):
        cache.entries()
