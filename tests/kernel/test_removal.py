"""Removing links in groups: everybody gets an own answer, and no stranger's link goes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import anyio
from support import observe

from pycni.agent import removal
from pycni.agent.groups import Groups
from pycni.agent.workers import Workers
from pycni.kernel.messages import set_group
from pycni.kernel.netlink import NetlinkSocket

if TYPE_CHECKING:
    import pytest
    from support.netns import NetNS

    from pycni.agent.committer import Statistics
    from pycni.kernel.netlink import Answer


def make_pairs(host: NetNS, count: int) -> list[str]:
    """veth pairs t0/u0, t1/u1, …; the names of the first ends."""
    names = [f"t{number}" for number in range(count)]
    script = "\n".join(f"link add {name} type veth peer name u{name[1:]}" for name in names)
    host.run("ip", "-batch", "-", stdin=script.encode())
    return names


def put_into_group(host: NetNS, name: str, group: int) -> None:
    """What iproute2 cannot: it knows groups up to 2³¹ only."""
    index = observe.links(host)[name]["ifindex"]
    with host.inside():
        sock = NetlinkSocket()
        (answer,) = sock.request([set_group(index, group)])
        sock.close()
    assert answer.ok


def remove_all(host: NetNS, targets: list[tuple[str, int]]) -> tuple[list[Answer], dict[str, Statistics]]:
    """Remove all at once through the agent's committer; answers in order, and its figures."""
    answers: dict[tuple[str, int], Answer] = {}

    async def run() -> dict[str, Statistics]:
        workers = Workers()
        async with anyio.create_task_group() as tasks:
            groups = Groups(tasks, workers)
            tasks.start_soon(groups.watch)
            node = groups.host()

            async def remove(name: str, index: int) -> None:
                answers[name, index] = await node.remove(name=name, index=index)

            async with anyio.create_task_group() as callers:
                for target in targets:
                    callers.start_soon(remove, *target)
            figures = groups.statistics()
            tasks.cancel_scope.cancel()
        workers.close()
        return figures

    with host.inside():  # the worker threads are started in here, so they live here
        figures = anyio.run(run)
    return [answers[target] for target in targets], figures


def test_many_go_in_few_groups(host: NetNS) -> None:
    """Twenty removals at once are all answered, the peers are gone too, in far fewer commits than links."""
    names = make_pairs(host, 20)
    answers, figures = remove_all(host, [(name, 0) for name in names])
    assert [answer.errno for answer in answers] == [0] * 20
    assert set(observe.links(host)) == {"lo"}
    assert figures["removals"].items == 20
    assert figures["removals"].largest >= 10


def test_a_link_is_gone_when_its_removal_is_answered(host: NetNS) -> None:
    """At the moment of the answer the name is free again."""
    for name in make_pairs(host, 3):
        answers, _ = remove_all(host, [(name, 0)])
        assert answers[0].ok
        assert name not in observe.links(host)
        host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"v{name}")
        host.run("ip", "link", "delete", name)


def test_a_missing_link_does_not_disturb_the_others(host: NetNS) -> None:
    """ENODEV for the one that is not there, success for those that are."""
    names = make_pairs(host, 4)
    targets = [(names[0], 0), ("nosuch", 0), (names[1], 0), ("", 9999), (names[2], 0)]
    answers, _ = remove_all(host, targets)
    assert [answer.errno for answer in answers] == [0, errno.ENODEV, 0, errno.ENODEV, 0]
    assert {"t3", "u3", "lo"} == set(observe.links(host))


def test_one_that_cannot_go_fails_alone(host: NetNS) -> None:
    """A link that the kernel will not delete (lo) gets its error and its group back; the others go."""
    names = make_pairs(host, 3)
    targets = [*((name, 0) for name in names), ("lo", 0)]
    answers, _ = remove_all(host, targets)
    assert [answer.errno for answer in answers] == [0, 0, 0, errno.EOPNOTSUPP]
    links = observe.links(host)
    assert set(links) == {"lo"}
    assert links["lo"]["group"] == "default"


def test_links_of_other_groups_stay(host: NetNS) -> None:
    """Links of strangers, grouped or not, are none of our business."""
    names = make_pairs(host, 6)
    host.run("ip", "link", "set", "t4", "group", "7")
    put_into_group(host, "t5", removal.OWN_GROUPS + 7)
    remove_all(host, [(name, 0) for name in names[:4]])
    assert {"t4", "u4", "t5", "u5", "lo"} == set(observe.links(host))


def test_a_group_in_use_is_not_taken(host: NetNS, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random number is drawn again while a link of the namespace is in that group."""
    make_pairs(host, 1)
    put_into_group(host, "t0", removal.OWN_GROUPS + 7)
    draws = iter([7, 7, 8])
    monkeypatch.setattr(removal.random, "getrandbits", lambda _bits: next(draws))
    with host.inside():
        sock = NetlinkSocket()
        assert removal.unused_group(sock) == removal.OWN_GROUPS + 8
        sock.close()


def test_without_notices_the_acknowledgement_answers(host: NetNS, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel's notices are lost the removal is answered when the call returns."""
    names = make_pairs(host, 3)

    async def deaf(_remover: removal.LinkRemover) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(removal.LinkRemover, "watch", deaf)
    answers, _ = remove_all(host, [(name, 0) for name in names])
    assert all(answer.ok for answer in answers)
    assert set(observe.links(host)) == {"lo"}
