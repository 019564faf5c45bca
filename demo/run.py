"""Two pods on the conflist in conf/, from the request that a plugin gets to the proof that nothing is left.

`make demo` runs it, as root. Everything happens in a network and a mount namespace of its own that plays the
node, with folders in memory on the places where plugins and runtimes keep state: the machine's own
interfaces, rules, pods and files are neither used nor changed, and the node ends with this program.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFLIST = ROOT / "conf" / "10-pycni.conflist"
RUN_DIR = Path("/run/pycni")
BIN_DIR = RUN_DIR / "bin"
STATE = Path("/var/lib/cni")
STORE = STATE / "networks" / "pycni"
CACHE = STATE / "results"
MASQUERADE = ("inet", "cni_plugins_masquerade", "masq_checks")

WAIT_SECONDS = 30
INSIDE = "PYCNI_DEMO_INSIDE"

ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "CNI_PATH": str(BIN_DIR),
    "NETCONFPATH": str(CONFLIST.parent),
    "LC_ALL": "C.UTF-8",
}


class Failed(Exception):
    """A step of the demonstration did not do what it should; the text says which."""


# What the reader sees ---------------------------------------------------------------------------------

_COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOUR else text


def heading(text: str) -> None:
    print("\n" + _paint("1;36", f"== {text}"), flush=True)


def say(text: str) -> None:
    print(textwrap.fill(text, 96), flush=True)


def show(text: str) -> None:
    if text.strip():
        print(textwrap.indent(text.strip("\n"), "    "), flush=True)


def command_line(text: str) -> None:
    print(_paint("33", f"$ {text}"), flush=True)


def run(*words: str, quiet: bool = False) -> str:
    """Show a command, run it, show what it prints; raises Failed if it fails."""
    command_line(shlex.join(words))
    done = subprocess.run(
        words,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * WAIT_SECONDS,
    )
    if done.returncode != 0:
        raise Failed(f"{shlex.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    if not quiet:
        show(done.stdout + done.stderr)
    return done.stdout


def observe(*words: str) -> str:
    """What a command prints, without showing it; "" if it fails (there is nothing to list)."""
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_SECONDS)
    return done.stdout if done.returncode == 0 else ""


# The node ---------------------------------------------------------------------------------------------


def become_the_node() -> None:
    """Start this program again under unshare(1), unless that was done; the process id stays."""
    if os.environ.pop(INSIDE, None) is not None:
        return
    command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def cover_state() -> None:
    """Put empty folders in memory where state is kept; the machine does not get a folder that it lacks.

    /run is covered as a whole. A missing /var/lib/cni is made in an overlay over /var/lib whose changes are
    in memory too. All of it is seen in this mount namespace alone, and is gone with it.
    """
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    RUN_DIR.mkdir()
    if not STATE.is_dir():
        layers = {name: f"/run/overlay/{name}" for name in ("upper", "work")}
        for layer in layers.values():
            Path(layer).mkdir(parents=True)
        options = f"lowerdir={STATE.parent},upperdir={layers['upper']},workdir={layers['work']}"
        _mount("-t", "overlay", "-o", options, "overlay", str(STATE.parent))
        STATE.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(STATE))


def _mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), env=ENVIRONMENT, check=True)


@contextmanager
def agent() -> Iterator[None]:
    """`pycni agent` on the node, until the block ends (and never longer than this process lives)."""
    words = ("pycni", "agent", "--run-dir", str(RUN_DIR))
    command_line(f"{shlex.join(words)} &")
    log = RUN_DIR / "agent.log"
    process = None
    try:
        with log.open("wb") as out, SIGNALS.held():
            process = subprocess.Popen(
                ("setpriv", "--pdeathsig", "TERM", *words),
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while not (RUN_DIR / "agent.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the agent did not start:\n{log.read_text()}")
            time.sleep(0.01)
        yield
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Signals:
    """SIGINT, SIGTERM and SIGHUP end the program through its clean-up, which no second one breaks off."""

    def __init__(self) -> None:
        self._hold = False
        self._came = 0

    def watch(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: object) -> None:
        if not self._came:
            self._came = number
            if not self._hold:
                self._exit()

    def _exit(self) -> None:
        print(f"\ndemo: {signal.Signals(self._came).name}, cleaning up", file=sys.stderr, flush=True)
        raise SystemExit(128 + self._came)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes in this block counts at its end: no started process is lost track of."""
        self._hold = True
        try:
            yield
        finally:
            self._hold = False
        if self._came:
            self._exit()


SIGNALS = Signals()


# The steps --------------------------------------------------------------------------------------------


def set_up() -> None:
    heading("A node")
    say(
        "This program plays a node in a network and a mount namespace of its own. The plugins are "
        "installed into a folder, and an agent is started that does their work in a warm process."
    )
    run("ip", "link", "set", "lo", "up")
    run("mkdir", str(BIN_DIR))
    run("pycni", "install", "--bin-dir", str(BIN_DIR), "--run-dir", str(RUN_DIR))


def by_hand() -> None:
    heading("What a plugin gets, and what it answers")
    say(
        "A plugin is an executable: the runtime tells it what to do by environment variables and by a "
        "JSON object on standard input, and reads the result from its standard output."
    )
    conflist = json.loads(CONFLIST.read_text())
    config = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}
    run("ip", "netns", "add", "by-hand")
    call_plugin("ADD", config)
    say("DEL takes the same request; it answers nothing.")
    call_plugin("DEL", config, show_request=False)
    run("ip", "netns", "delete", "by-hand")


def call_plugin(verb: str, config: Mapping[str, object], *, show_request: bool = True) -> None:
    """Execute the first plugin of the list as a runtime does."""
    request = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "by-hand",
        "CNI_NETNS": "/run/netns/by-hand",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(BIN_DIR),
    }
    executable = str(BIN_DIR / str(config["type"]))
    if show_request:
        say("The environment:")
        show("\n".join(f"{name}={value}" for name, value in request.items()))
        say("Standard input:")
        show(json.dumps(config, indent=2))
    command_line(f"CNI_COMMAND={verb} {executable} < request")
    done = subprocess.run(
        executable,
        env=request,
        input=json.dumps(config),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    if done.returncode != 0:
        raise Failed(f"{executable} {verb}: status {done.returncode}\n{done.stdout}{done.stderr}")
    show(done.stdout)


def attach(pod: str) -> dict[str, str]:
    """A pod on the network; its addresses and its gateways by family: `4`, `6`, `gateway 4`, `gateway 6`."""
    run("ip", "netns", "add", pod)
    result = json.loads(run("pycni", "add", "pycni", pod, quiet=True))
    found = {}
    for ip in result["ips"]:
        family = "6" if ":" in ip["address"] else "4"
        found[family] = ip["address"].partition("/")[0]
        found[f"gateway {family}"] = ip["gateway"]
    show(f"… {found['4']} … {found['6']} …")
    return found


def look_around(pod: str) -> None:
    heading("What there is now")
    run("ip", "netns")
    say("The node's links: the bridge, and one veth for each pod.")
    run("ip", "-br", "link")
    say(f"{pod}: its addresses and its routes.")
    run("ip", "-n", pod, "-br", "address")
    run("ip", "-n", pod, "route")
    run("ip", "-n", pod, "-6", "route")
    say("The addresses that are taken, each a file with its holder in it; and the rules for ipMasq.")
    run("ls", str(STORE))
    run("nft", "list", "chain", *MASQUERADE)


def ping(pod: str, address: str) -> None:
    """One packet there and back. The gateway's IPv6 address is usable a second or two after its birth."""
    deadline = time.monotonic() + WAIT_SECONDS
    words = ("ip", "netns", "exec", pod, "ping", "-n", "-c", "1", "-W", "2", address)
    command_line(shlex.join(words))
    while True:
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_SECONDS)
        if done.returncode == 0:
            show(next(line for line in done.stdout.splitlines() if "bytes from" in line))
            return
        if time.monotonic() > deadline:
            raise Failed(f"{pod} cannot reach {address}\n{done.stdout}{done.stderr}")


def reach(first: Mapping[str, str], second: Mapping[str, str]) -> None:
    heading("The pods reach each other, and the node")
    for family in ("4", "6"):
        ping("pod-a", second[family])
        ping("pod-b", first[family])
        ping("pod-a", first[f"gateway {family}"])


def check(*pods: str) -> None:
    heading("CHECK: is everything still as it was made?")
    for pod in pods:
        run("pycni", "check", "pycni", pod)
        show("yes")


def agents_view() -> None:
    heading("Who did the work")
    run("pycni", "agent", "--status", "--run-dir", str(RUN_DIR))


def without_agent(other: Mapping[str, str]) -> None:
    heading("The same without the agent")
    say("The agent was stopped. The same executables now do the work in their own process.")
    attach("pod-c")
    ping("pod-c", other["4"])
    detach("pod-c")


def detach(pod: str) -> None:
    run("pycni", "del", "pycni", pod)
    run("ip", "netns", "delete", pod)


def prove_that_nothing_is_left() -> None:
    """Shows what a reader would look for, and raises Failed if a trace of a pod is found."""
    heading("Nothing is left")
    run("ip", "netns")
    run("ip", "-br", "link")
    run("ls", str(STORE))
    run("nft", "list", "chain", *MASQUERADE)
    found = leftovers()
    if found:
        raise Failed("left behind: " + ", ".join(found))
    say(
        "No namespace, no veth, no address, no rule, no cached result. What stays belongs to the network "
        "and not to a pod: the bridge, the empty chains, and the address given last."
    )


def leftovers() -> list[str]:
    """Traces of pods on the node, by what they are; empty if all is well."""
    links = json.loads(observe("ip", "-j", "link", "show", "type", "veth") or "[]")
    rules = [line for line in observe("nft", "list", "ruleset").splitlines() if "id: " in line]
    reserved = [path for path in STORE.iterdir() if not path.name.startswith(("lock", "last_reserved_ip"))]
    attachments = RUN_DIR / "attachments"
    return [
        *(f"namespace {path.name}" for path in Path("/run/netns").iterdir()),
        *(f"link {link['ifname']}" for link in links),
        *(f"rule {rule.strip()}" for rule in rules),
        *(f"reservation {path.name}" for path in reserved),
        *(f"cached result {path.name}" for path in (CACHE.iterdir() if CACHE.is_dir() else ())),
        *(f"intent {path.name}" for path in (attachments.iterdir() if attachments.is_dir() else ())),
    ]


def two_pods() -> tuple[dict[str, str], dict[str, str]]:
    heading("Two pods on a conflist")
    say(
        "`pycni add` does a runtime's part: it calls all plugins of the list, bridge and then loopback, "
        "gives each the result of the one before, and remembers the last. It prints that; it looks "
        "like the one above, so here are the addresses alone."
    )
    show(f"export CNI_PATH={BIN_DIR} NETCONFPATH={CONFLIST.parent}")
    return attach("pod-a"), attach("pod-b")


def demonstrate() -> None:
    set_up()
    with agent():
        by_hand()
        first, second = two_pods()
        look_around("pod-a")
        reach(first, second)
        check("pod-a", "pod-b")
        agents_view()
    without_agent(first)
    heading("The pods go")
    detach("pod-a")
    detach("pod-b")
    prove_that_nothing_is_left()


def main() -> int:
    if os.geteuid() != 0:
        print("demo: needs root: it makes network namespaces", file=sys.stderr)
        return 1
    become_the_node()
    SIGNALS.watch()
    try:
        cover_state()
        demonstrate()
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"\ndemo: failed: {error}", file=sys.stderr)
        return 1
    heading("Done. The node goes with this program.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
