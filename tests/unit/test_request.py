"""Environment and standard input into a request: `pycni.request`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.errors import CNIError
from pycni.request import STDIN_LIMIT, VERBS, Request, parse_request
from pycni.types import Interface, Result
from pycni.versions import SUPPORTED

GOOD = {
    "CNI_CONTAINERID": "pod-1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = b'{"cniVersion":"1.1.0","name":"net1","type":"x"}'


def refused(env: dict[str, str], stdin: bytes = CONFIG) -> CNIError:
    with pytest.raises(CNIError) as caught:
        parse_request(env, stdin)
    return caught.value


def parse(verb: str = "ADD", stdin: bytes = CONFIG, **env: str) -> Request:
    return parse_request({**GOOD, "CNI_COMMAND": verb, **env}, stdin)


MISSING = "required env variables [{}] missing"


@pytest.mark.row("contract", 5, 6, 7)
@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("GC", "CNI_PATH"),
        ("STATUS", "CNI_PATH"),
        ("", "CNI_COMMAND"),
    ],
)
@pytest.mark.parametrize("empty", [False, True], ids=["unset", "empty"])
def test_missing_variables_are_reported_together_in_order(verb: str, missing: str, empty: bool) -> None:
    """Code 4 with all missing names in the table's order; empty is missing; this comes before stdin."""
    env = dict.fromkeys(GOOD, "") if empty else {}
    error = refused({**env, "CNI_COMMAND": verb}, b"{{{")
    assert (error.code, error.msg) == (4, MISSING.format(missing))


@pytest.mark.parametrize("name", GOOD)
def test_each_variable_alone_is_missed_by_add(name: str) -> None:
    """ADD needs each of the four."""
    env = {key: value for key, value in GOOD.items() if key != name}
    assert refused({**env, "CNI_COMMAND": "ADD"}).msg == MISSING.format(name)


@pytest.mark.row("contract", 8, 9)
@pytest.mark.parametrize(
    ("env", "msg", "details"),
    [
        ({"CNI_CONTAINERID": "/a"}, "invalid characters in containerID", "/a"),
        ({"CNI_CONTAINERID": "a\n"}, "invalid characters in containerID", "a\n"),
        (
            {"CNI_IFNAME": "a/b"},
            "interface name contains / or : or whitespace characters",
            'CNI_IFNAME is "a/b"',
        ),
        ({"CNI_IFNAME": ".."}, "interface name is . or ..", 'CNI_IFNAME is ".."'),
        (
            {"CNI_IFNAME": "x" * 16},
            "interface name is too long",
            'interface name should be less than 16 characters; CNI_IFNAME is "xxxxxxxxxxxxxxxx"',
        ),
        ({"CNI_CONTAINERID": "-", "CNI_IFNAME": "a/b"}, "invalid characters in containerID", "-"),
    ],
)
@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_a_bad_value_is_reported_before_missing_ones(
    verb: str, env: dict[str, str], msg: str, details: str
) -> None:
    """A bad id or interface name ends the walk, whatever else is missing, and before stdin is read."""
    error = refused({"CNI_COMMAND": verb, **env}, b"{{{")
    assert (error.code, error.msg, error.details) == (4, msg, details)


@pytest.mark.row("contract", 10)
@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_verbs_without_attachment_do_not_look_at_one(verb: str) -> None:
    """GC and STATUS accept any id and interface name, and do not hand them on."""
    request = parse(verb, CNI_CONTAINERID="/bad", CNI_IFNAME="a/b", CNI_NETNS="x", CNI_ARGS="y")
    assert (request.container_id, request.ifname, request.netns, request.args) == ("", "", "", "")
    assert request.path == "/opt/cni/bin"


@pytest.mark.row("contract", 12)
@pytest.mark.parametrize("verb", ["add", "ADD ", "FOO", "VERSION2"])
def test_an_unknown_command_is_reported_after_the_config(verb: str) -> None:
    """Nothing is required of it but a good config; then code 4 with its name, before its version is read."""
    assert refused({"CNI_COMMAND": verb}, b"").code == 6
    assert refused({"CNI_COMMAND": verb}, b"{}").code == 7
    for config in (b'{"name":"n"}', b'{"name":"n","cniVersion":5}', b'{"name":"n","cniVersion":"9.9.9"}'):
        error = refused({"CNI_COMMAND": verb}, config)
        assert (error.code, error.msg) == (4, f"unknown CNI_COMMAND: {verb}")


P = "error unmarshall network config: "


@pytest.mark.row("contract", 19, 20, 21, 24, 25)
@pytest.mark.parametrize(
    ("stdin", "code", "msg"),
    [
        (b"", 6, P + "unexpected end of JSON input"),
        (b"  \n", 6, P + "unexpected end of JSON input"),
        (b"{", 6, P),
        (b"{{{{", 6, P),
        (b"[]", 6, P + "json: cannot unmarshal array into"),
        (b'"x"', 6, P + "json: cannot unmarshal string into"),
        (b"1", 6, P + "json: cannot unmarshal number into"),
        (b"true", 6, P + "json: cannot unmarshal bool into"),
        (b"null", 7, "missing network name"),
        (b"{}", 7, "missing network name"),
        (b'{"name":""}', 7, "missing network name"),
        (b'{"name":null}', 7, "missing network name"),
        (b'{"name":5}', 6, P + "json: cannot unmarshal number into field name of type string"),
        (b'{"name":[]}', 6, P + "json: cannot unmarshal array into field name of type string"),
        (b'{"name":{}}', 6, P + "json: cannot unmarshal object into field name of type string"),
        (b'{"name":true}', 6, P + "json: cannot unmarshal bool into field name of type string"),
        (b'{"name":"a/b"}', 7, "invalid characters found in network name"),
        (b'{"name":"-a"}', 7, "invalid characters found in network name"),
        (b'{"name":"a b"}', 7, "invalid characters found in network name"),
        (b'{"name":"a\\n"}', 7, "invalid characters found in network name"),
        (b'{"name":".."}', 7, "invalid characters found in network name"),
        (b'{"name":"\xc3\xa9"}', 7, "invalid characters found in network name"),
        (b'{"name":"n1","NAME":"a/b"}', 7, "invalid characters found in network name"),
        (b'{"name":"n1"} t', 6, P + "invalid character 't' after top-level value"),
        (b'{"name":"n1"}{}', 6, P),
        (b'{"name":"n1",}', 6, P),
        (b"{'name':'n1'}", 6, P),
        (b'{"name":"n1"/**/}', 6, P),
        (b'{"name":"n1","x":01}', 6, P),
        (b'{"name":"n1","x":NaN}', 6, P),
        (b'{"name":"n1","x":"\t"}', 6, P),
        (b'\xef\xbb\xbf{"name":"n1"}', 6, P),
        ('{"name":"n1"}'.encode("utf-16"), 6, P),
        (b'{"name":"n1","x":' + b"[" * 20000, 6, P + "exceeded max depth"),
        (
            b'{"name":"n1","cniVersion":5}',
            6,
            "decoding version from network config: json: cannot unmarshal number",
        ),
        (b'{"name":"n1","cniVersion":"9.9.9"}', 1, "incompatible CNI versions"),
    ],
)
def test_bad_standard_input(stdin: bytes, code: int, msg: str) -> None:
    """Each input has the reference's code and text up to its parser's words, for every verb with a config."""
    for verb in ("ADD", "DEL"):
        error = refused({**GOOD, "CNI_COMMAND": verb}, stdin)
        assert error.code == code
        assert error.msg.startswith(msg)
        assert "\n" not in error.msg


@pytest.mark.parametrize(
    ("stdin", "name"),
    [
        (b'{"name":"a..b"}', "a..b"),
        (b'{"Name":"n1"}', "n1"),
        (b'{"NAME":"a/b","name":"n1"}', "n1"),
        (b'{"name":"n1","name":null}', "n1"),
        (b'{"name":"n1","x":1e999}', "n1"),
        (b'{"name":"n1","x":"\\ud800"}', "n1"),
        (b'{"name":"n1","x":"\xff"}', "n1"),
        (b' \n{"name":"n1"}\n\t', "n1"),
        (b'{"name":"n1","type":5,"plugins":null}', "n1"),
    ],
)
def test_good_standard_input(stdin: bytes, name: str) -> None:
    """Key case, repeated keys and odd values elsewhere do not disturb; the bytes are kept for delegates."""
    request = parse(stdin=stdin)
    assert request.network == name
    assert request.stdin == stdin


@pytest.mark.row("contract", 22)
@pytest.mark.parametrize("version", ["", "null", '""'])
def test_no_version_means_the_oldest(version: str) -> None:
    """An absent, empty or null cniVersion is 0.1.0."""
    member = f'"cniVersion":{version},' if version else ""
    assert parse(stdin=f'{{{member}"name":"n"}}'.encode()).cni_version == "0.1.0"


def test_too_much_standard_input_is_refused() -> None:
    """16 MiB and more is code 5 without being parsed; one byte less is read."""
    huge = b'{"name":"n"}'
    error = refused({**GOOD, "CNI_COMMAND": "ADD"}, huge.ljust(STDIN_LIMIT))
    assert error.code == 5
    assert error.msg.startswith("error reading from stdin: ")
    assert parse(stdin=huge.ljust(STDIN_LIMIT - 1)).network == "n"


def test_a_request_carries_everything_of_the_call() -> None:
    """Each variable and the config arrive where a plugin looks for them."""
    request = parse(CNI_ARGS="A=1", OTHER="x")
    assert request.verb == "ADD"
    assert request.network == "net1"
    assert request.cni_version == "1.1.0"
    assert request.config == json.loads(CONFIG)
    assert request.stdin == CONFIG
    assert request.env["OTHER"] == "x"
    assert (request.container_id, request.netns, request.ifname) == ("pod-1", "/run/netns/x", "eth0")
    assert (request.args, request.path) == ("A=1", "/opt/cni/bin")
    assert request.members().string("type") == "x"


@pytest.mark.row("contract", 6)
def test_del_needs_no_namespace() -> None:
    """DEL with an empty or unset CNI_NETNS is a request."""
    assert parse("DEL", CNI_NETNS="").netns == ""


@pytest.mark.row("contract", 30)
@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        *((text, True) for text in ("1", "true", "TRUE", "TrUe")),
        *((text, False) for text in ("", "0", "yes", "2", " true", "false", "on")),
    ],
)
def test_the_guard_is_switched_off_by_two_words(value: str, allowed: bool) -> None:
    """Only `1`, and `true` in any case."""
    assert parse(CNI_NETNS_OVERRIDE=value).netns_override is allowed


def config(**members: object) -> bytes:
    return json.dumps({"cniVersion": "1.1.0", "name": "n", **members}).encode()


@pytest.mark.row("contract", 53)
def test_prev_result_is_none_empty_or_a_result() -> None:
    """Absent and null are none; an empty object is an empty result, which is something else."""
    assert parse(stdin=config()).prev_result() is None
    assert parse(stdin=config(prevResult=None)).prev_result() is None
    assert parse(stdin=config(prevResult={})).prev_result() == Result(cni_version="1.1.0")
    result = parse(stdin=config(PREVRESULT={"interfaces": [{"name": "a"}]})).prev_result()
    assert result == Result(interfaces=(Interface("a"),), cni_version="1.1.0")


@pytest.mark.row("contract", 53)
@pytest.mark.parametrize("value", [[], "x", 5, True])
def test_prev_result_must_be_an_object(value: object) -> None:
    """Any other type is code 999, named as prevResult."""
    with pytest.raises(CNIError, match="could not parse prevResult: json: cannot unmarshal ") as caught:
        parse(stdin=config(prevResult=value)).prev_result()
    assert caught.value.code == 999
    assert "field prevResult" in caught.value.msg


PAIR = {"containerID": "a", "ifname": "eth0"}


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_reads_both_names_of_the_list(key: str) -> None:
    """The spec's name and libcni's mean the same; the empty list is a list."""
    two = [PAIR, {"containerID": "b", "ifname": "net1"}]
    assert parse("GC", config(**{key: two})).valid_attachments() == {("a", "eth0"), ("b", "net1")}
    assert parse("GC", config(**{key: []})).valid_attachments() == frozenset()


def test_gc_without_a_list_knows_nothing() -> None:
    """A missing or null list is None, which must not be taken for an empty one; the spec's name wins."""
    assert parse("GC", config()).valid_attachments() is None
    assert parse("GC", config(**{"cni.dev/valid-attachments": None})).valid_attachments() is None
    both = {"cni.dev/valid-attachments": [PAIR], "cni.dev/attachments": []}
    assert parse("GC", config(**both)).valid_attachments() == {("a", "eth0")}


@pytest.mark.parametrize(
    "value", [{}, "x", [None], ["x"], [{}], [{"containerID": "a"}], [{"containerID": 5, "ifname": "e"}]]
)
def test_gc_refuses_a_list_that_is_not_one_of_attachments(value: object) -> None:
    """Code 7 rather than a shorter list of what is to stay."""
    with pytest.raises(CNIError) as caught:
        parse("GC", config(**{"cni.dev/valid-attachments": value})).valid_attachments()
    assert caught.value.code == 7
    assert "cni.dev/valid-attachments" in caught.value.msg


TEXTS = st.sampled_from(["", "a", "/", "..", "eth0", "a b", "\udcff", "ADD", "9.9.9", "é" * 9]) | st.text(
    max_size=20
)


@given(
    st.sampled_from([*VERBS, "", "FOO"]),
    st.dictionaries(st.sampled_from([*GOOD, "CNI_ARGS", "CNI_NETNS_OVERRIDE"]), TEXTS),
    st.one_of(
        st.binary(max_size=50),
        st.fixed_dictionaries(
            {"name": TEXTS, "cniVersion": st.sampled_from([*SUPPORTED, "x", 5, None, [], "1.2.3.4"])}
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_nothing_but_a_cni_error_comes_out(verb: str, env: dict[str, str], stdin: bytes) -> None:
    """Whatever arrives is a request whose names are safe, or one CNIError of a known code."""
    try:
        request = parse_request({"CNI_COMMAND": verb, **env}, stdin)
    except CNIError as refusal:
        assert refusal.code in (1, 4, 5, 6, 7)  # noqa: PT017 - a request is as good
        assert refusal.msg  # noqa: PT017
    else:
        assert request.verb in VERBS
        assert "/" not in request.network + request.container_id + request.ifname
        assert request.cni_version in SUPPORTED
