"""What imports what, and what a fresh plugin process may load.

A one-shot plugin process lives for milliseconds, so its modules do without the costly parts of the standard
library; and the arrows between the rooms go one way, so that each can be understood from below.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pycni", "pycni_bridge", "pycni_hostlocal", "pycni_loopback")

# Each line may import from itself and from lines above. A plugin may not import another plugin.
LAYERS = (
    ("pycni",),
    ("pycni.record", "pycni.errors", "pycni.grouping"),
    ("pycni.versions", "pycni.addresses", "pycni.names", "pycni.cni_args"),
    ("pycni.types",),
    ("pycni.wire",),
    ("pycni.request",),
    ("pycni.context",),
    ("pycni.kernel",),
    ("pycni.skel",),
    ("pycni.delegate",),
    ("pycni_bridge", "pycni_hostlocal", "pycni_loopback"),
    ("pycni.attachments", "pycni.intents", "pycni.handover", "pycni.execute", "pycni.main", "pycni.launcher"),
    ("pycni.native", "pycni.install"),
    ("pycni.runtime",),
    ("pycni.agent",),
    ("pycni.testing",),
    ("pycni.cli",),
)
# Imports inside a function that go the other way, each for a reason.
AGAINST_THE_ARROWS = {
    # A third party's plugin that needs an event loop gets the agent's in a one-shot process too.
    ("pycni.main", "pycni.agent.looped"),
}

# The core is sans-I/O: it imports these and nothing else from outside.
CORE = {
    "pycni.record": set(),
    "pycni.errors": set(),
    "pycni.versions": set(),
    "pycni.addresses": {"_socket"},  # inet_pton and inet_ntop
    "pycni.names": {"_sha512", "_sha2", "hashlib"},
    "pycni.cni_args": set(),
    "pycni.types": set(),
    "pycni.wire": {"_json", "json"},
    "pycni.request": set(),
    "pycni.skel": set(),
}

# Too dear for a one-shot process, or third-party: not at the top of any module that one may load.
DEAR = (
    *("typing", "dataclasses", "re", "enum", "json", "collections", "functools", "contextlib", "abc"),
    *("ipaddress", "hashlib", "socket", "subprocess", "logging", "pathlib", "asyncio", "importlib", "ctypes"),
    *("anyio", "pyroute2", "orjson", "inspect", "threading", "tempfile", "shutil", "signal", "argparse"),
)
NOT_ONE_SHOT = (
    *("pycni.runtime", "pycni.agent", "pycni.cli", "pycni.testing", "pycni.install"),
    "pycni.native.build",
)


class Import(NamedTuple):
    """`module` is what an import statement names; `top` whether it is executed when its file is."""

    module: str
    top: bool


def belongs(module: str, rooms: tuple[str, ...] | dict[str, set[str]]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_of(path: Path) -> set[Import]:
    """All imports that are executed, those inside of functions too; not those for type checkers."""
    found: set[Import] = set()

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.orelse:
                visit(child, top)
            return
        if isinstance(node, ast.Import):
            found.update(Import(alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(Import(inner if inner in MODULES else node.module, top))
        inside = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text()), True)
    return found


def layer_of(module: str) -> int:
    if module == "pycni":
        return 0
    for number, rooms in enumerate(LAYERS[1:], 1):
        if belongs(module, rooms):
            return number
    pytest.fail(f"{module} has no place yet: say in LAYERS which line it belongs to")


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_one_way(module: str) -> None:
    """A module imports from its own line of the table or from lines above, inside of functions too."""
    for imported, _ in imports_of(MODULES[module]):
        if belongs(imported, PACKAGES) and (module, imported) not in AGAINST_THE_ARROWS:
            assert layer_of(imported) <= layer_of(module), f"{module} must not import {imported}"
            if not module.startswith("pycni.") and layer_of(imported) == layer_of(module):
                assert imported.split(".")[0] == module.split(".")[0], "a plugin must not import another"


def test_exceptions_are_in_use_and_inside_of_functions() -> None:
    """What goes against the arrows is not executed when a module is imported, and is really there."""
    for module, imported in AGAINST_THE_ARROWS:
        assert Import(imported, False) in imports_of(MODULES[module])
        assert Import(imported, True) not in imports_of(MODULES[module])


@pytest.mark.parametrize("module", [module for module in MODULES if belongs(module, CORE)])
def test_the_core_does_no_io(module: str) -> None:
    """Vocabulary, wire, request and skeleton import nothing by which the world could be touched."""
    allowed = next(names for room, names in CORE.items() if belongs(module, (room,))) | {"__future__"}
    outside = {name for name, _ in imports_of(MODULES[module]) if not belongs(name, PACKAGES)}
    assert outside <= allowed
    for name, _ in imports_of(MODULES[module]):
        if belongs(name, PACKAGES) and name not in ("pycni", "pycni.context"):
            assert belongs(name, CORE), f"{module} imports {name}, which does I/O"


@pytest.mark.parametrize("module", [module for module in MODULES if not belongs(module, NOT_ONE_SHOT)])
def test_no_dear_import_at_the_top_of_a_one_shot_module(module: str) -> None:
    """Modules of a one-shot process import the costly parts inside of functions only, or not at all."""
    fallbacks = {"pycni.names": {"hashlib"}}  # only where CPython's C module is missing
    dear = {name for name, top in imports_of(MODULES[module]) if top and belongs(name, DEAR)}
    assert dear <= fallbacks.get(module, set())


def test_pyroute2_is_imported_in_one_module_at_most() -> None:
    """None that a one-shot process may load, and one of the rest."""
    users = [
        name
        for name, path in MODULES.items()
        if any(belongs(i.module, ("pyroute2",)) for i in imports_of(path))
    ]
    assert len(users) <= 1
    assert all(belongs(user, NOT_ONE_SHOT) for user in users)


def loaded_by(code: str) -> set[str]:
    """The modules that `code` loads in a fresh interpreter which knows no site-packages."""
    script = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        f"{code}\nprint(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_pycni_loads_nothing_else() -> None:
    """`import pycni` costs one file, and no third party's."""
    assert loaded_by("import pycni") <= {"pycni", "__future__"}


REQUEST = """
from pycni.request import parse_request
from pycni.wire.result import print_result
env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": "/x", "CNI_IFNAME": "e", "CNI_PATH": "/b"}
text = b'{"cniVersion": "0.4.0", "name": "n", "prevResult": {"ips": [{"address": "10.0.0.1/8"}]}}'
result = parse_request(env, text).prev_result()
assert b"10.0.0.1/8" in print_result(result, "0.4.0")
"""


@pytest.mark.parametrize(
    "code",
    [
        REQUEST,
        "import pycni.skel, pycni.delegate",
        "import pycni.kernel.namespace, pycni.kernel.nftables, pycni.kernel.iptables",
        "import pycni_loopback.plugin",
        "import pycni_hostlocal.plugin",
        "import pycni_bridge.plugin",
        "import pycni.main",
        "import pycni.native.takeover",
    ],
)
def test_a_fresh_process_loads_nothing_dear(code: str) -> None:
    """Neither the costly parts of the standard library nor third-party code, by whatever detour."""
    loaded = loaded_by(code)
    assert not {name for name in loaded if belongs(name, DEAR)}
    foreign = {name for name in loaded if not belongs(name, PACKAGES)}
    assert foreign <= sys.stdlib_module_names
