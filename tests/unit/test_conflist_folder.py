"""Finding networks in a configuration folder (pycni.runtime.folder)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pycni.errors import CNIError
from pycni.runtime.folder import load, scan

if TYPE_CHECKING:
    from pathlib import Path


def write_list(path: Path, name: str, *types: str, **members: Any) -> None:
    plugins = [{"type": kind} for kind in types]
    path.write_text(json.dumps({"cniVersion": "1.1.0", "name": name, "plugins": plugins, **members}))


def types_of(folder: Path, name: str) -> list[str]:
    return [plugin.type for plugin in load(str(folder), name)[0].plugins]


@pytest.mark.row("contract", 68)
def test_the_first_list_of_the_name_in_byte_order_wins(tmp_path: Path) -> None:
    """Files are looked at in the order of their names' bytes."""
    write_list(tmp_path / "20.conflist", "n", "late")
    write_list(tmp_path / "10.conflist", "n", "early")
    write_list(tmp_path / "05.conflist", "other", "x")
    assert types_of(tmp_path, "n") == ["early"]


def test_lists_win_over_single_plugins(tmp_path: Path) -> None:
    """A .conf is looked at only if no .conflist bears the name, whatever its file name."""
    (tmp_path / "00.conf").write_text('{"name":"n","type":"single"}')
    write_list(tmp_path / "99.conflist", "n", "listed")
    assert types_of(tmp_path, "n") == ["listed"]


def test_conf_and_json_are_sorted_together(tmp_path: Path) -> None:
    """Both extensions of single plugins make one sequence, and each becomes a list."""
    (tmp_path / "20.conf").write_text('{"name":"n","type":"late"}')
    (tmp_path / "10.json").write_text('{"name":"n","type":"early","cniVersion":"0.4.0"}')
    network, _ = load(str(tmp_path), "n")
    assert (network.plugins[0].type, network.cni_version) == ("early", "0.4.0")


@pytest.mark.row("contract", 68)
@pytest.mark.parametrize("name", ["n.CONFLIST", "n.conflist.bak", "n.conflist~", "conflist", "n.yaml"])
def test_extensions_are_exact(tmp_path: Path, name: str) -> None:
    """Any other ending is no configuration."""
    write_list(tmp_path / name, "n", "a")
    assert scan(str(tmp_path)).networks == ()


@pytest.mark.row("contract", 68)
def test_folders_are_no_configurations(tmp_path: Path) -> None:
    """A sub-folder whose name ends like a list is not looked at."""
    (tmp_path / "10.conflist").mkdir()
    write_list(tmp_path / "20.conflist", "n", "a")
    network, problems = load(str(tmp_path), "n")
    assert network.name == "n"
    assert problems == ()


@pytest.mark.row("contract", 68)
@pytest.mark.parametrize("make", ["garbage", "dangling"])
def test_a_broken_file_does_not_hide_a_good_one(tmp_path: Path, make: str) -> None:
    """What cannot be read is passed over and told, and the search goes on."""
    broken = tmp_path / "08.conflist"
    if make == "garbage":
        broken.write_text("{")
    else:
        broken.symlink_to(tmp_path / "nowhere")
    write_list(tmp_path / "10.conflist", "n", "a")
    network, problems = load(str(tmp_path), "n")
    assert network.plugins[0].type == "a"
    assert [problem.file for problem in problems] == [str(broken)]
    assert str(broken) in problems[0].error.msg


def test_the_wanted_network_being_broken_is_an_error(tmp_path: Path) -> None:
    """A broken file that bears the wanted name is reported, even if another one of the name follows."""
    (tmp_path / "08.conflist").write_text('{"name":"n","plugins":[]}')
    write_list(tmp_path / "10.conflist", "n", "a")
    with pytest.raises(CNIError, match=r"08\.conflist: error parsing configuration list: no plugins in list"):
        load(str(tmp_path), "n")


def test_an_unknown_network_names_what_was_found_and_what_is_broken(tmp_path: Path) -> None:
    """The error says which networks exist and which files could not be read: one may be the wanted one."""
    (tmp_path / "08.conflist").write_text("{")
    write_list(tmp_path / "10.conflist", "other", "a")
    with pytest.raises(CNIError) as caught:
        load(str(tmp_path), "n")
    assert caught.value.msg == f'no net configuration with name "n" in {tmp_path}'
    assert "other" in caught.value.details
    assert "08.conflist" in caught.value.details


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_or_missing_folder_has_no_networks(tmp_path: Path, exists: bool) -> None:
    """Both say that there are no configurations at all."""
    folder = tmp_path / "net.d"
    if exists:
        folder.mkdir()
    assert scan(str(folder)).networks == ()
    with pytest.raises(CNIError) as caught:
        load(str(folder), "n")
    assert caught.value.msg == f"no net configurations found in {folder}"


@pytest.mark.parametrize("name", ["", "a/b", "../n", "a\n"])
def test_a_name_that_is_a_path_is_never_looked_up(tmp_path: Path, name: str) -> None:
    """Names become file names, so the bad ones are refused before the folder is read."""
    with pytest.raises(CNIError) as caught:
        load(str(tmp_path), name)
    assert caught.value.code == 7


def test_a_list_that_is_named_like_a_path_is_broken(tmp_path: Path) -> None:
    """A network's name also names its plugin folder: one that leads out of it makes the file unusable."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.conf").write_text('{"type":"stranger"}')
    (tmp_path / "net.d").mkdir()
    write_list(tmp_path / "net.d" / "10.conflist", "../out", "a")
    found = scan(str(tmp_path / "net.d"))
    assert found.networks == ()
    assert found.problems[0].error.code == 7


@pytest.mark.row("contract", 69)
def test_the_plugin_folder_is_appended_in_order(tmp_path: Path) -> None:
    """`<folder>/<name>/*.conf` follow the inlined plugins, sorted; other endings do not count."""
    write_list(tmp_path / "10.conflist", "n", "inlined")
    (tmp_path / "n").mkdir()
    for file, kind in (("20.conf", "second"), ("10.conf", "first"), ("30.json", "no"), ("40.conflist", "no")):
        (tmp_path / "n" / file).write_text(json.dumps({"type": kind, "name": "x", "cniVersion": "9"}))
    assert types_of(tmp_path, "n") == ["inlined", "first", "second"]


def test_the_plugin_folder_alone_makes_a_list(tmp_path: Path) -> None:
    """A list file without plugins gets all of them from the folder; without any there it is broken."""
    (tmp_path / "10.conflist").write_text('{"name":"n","cniVersion":"1.1.0"}')
    with pytest.raises(CNIError, match="no plugin configs found"):
        load(str(tmp_path), "n")
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a.conf").write_text('{"type":"a"}')
    assert types_of(tmp_path, "n") == ["a"]


@pytest.mark.row("contract", 69)
def test_inlined_plugins_can_be_all(tmp_path: Path) -> None:
    """With loadOnlyInlinedPlugins the plugin folder is not looked at, broken or not."""
    write_list(tmp_path / "10.conflist", "n", "inlined", loadOnlyInlinedPlugins="true")
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a.conf").write_text("{")
    assert types_of(tmp_path, "n") == ["inlined"]


def test_a_broken_file_in_the_plugin_folder_breaks_the_list(tmp_path: Path) -> None:
    """A chain with a link missing is not used."""
    write_list(tmp_path / "10.conflist", "n", "inlined")
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a.conf").write_text("{}")
    with pytest.raises(CNIError, match=r"n/a\.conf: error parsing configuration: missing 'type'"):
        load(str(tmp_path), "n")
