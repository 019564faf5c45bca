"""containerd on files of its own, inside a node's namespace, spoken to through the CRI."""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from support.calls import clean_environment
from support.images import write_image
from support.netns import unmount

if TYPE_CHECKING:
    from support.netns import NetNS

PAUSE = "localhost/pause:1"
BUSYBOX = "localhost/busybox:1"
CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 60
CALL_SECONDS = 60

# restrict_oom_score_adj: machines without CAP_SYS_RESOURCE cannot raise it, and runc would fail.
# netns_mounts_under_state_dir: sandboxes are pinned below our folder instead of /run/netns.
_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
"""


def _remove_cgroup(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while folder.is_dir():  # asked first: systemd mounts the folder of all hierarchies read-only
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # busy while its last process is still dying
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _messages(folder: Path) -> tuple[Any, Any]:
    """The modules that protoc makes of cri.proto, compiled into `folder`."""
    if "cri_pb2" not in sys.modules:
        source = Path(__file__).with_name("cri.proto")
        outputs = (f"--python_out={folder}", f"--grpc_python_out={folder}")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source.parent}", *outputs, str(source)]
        subprocess.run(command, check=True)
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module("cri_pb2_grpc")
        finally:
            sys.path.remove(str(folder))
    return sys.modules["cri_pb2"], sys.modules["cri_pb2_grpc"]


class Containerd:
    """A running containerd with our two images; `close()` ends it and whatever it started."""

    def __init__(self, host: NetNS, folder: Path, bin_dir: Path, conf_dir: Path) -> None:
        """Start it in `host`; raises AssertionError with its log if it does not answer in START_SECONDS."""
        self.folder = folder
        self._socket = folder / "containerd.sock"
        # No process id: cgroups are the machine's, and in process namespaces ids are the same again.
        self._cgroup = f"/pycni-tests-{secrets.token_hex(4)}"
        self._log = folder / "containerd.log"
        config = folder / "containerd.toml"
        config.write_text(_CONFIG.format(folder=folder, bin_dir=bin_dir, conf_dir=conf_dir, pause=PAUSE))
        self._m, services = _messages(folder)
        with self._log.open("wb") as log:
            self.process = host.popen(
                "containerd",
                "-c",
                config,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._channel = grpc.insecure_channel(f"unix://{self._socket}")
            self._cri = services.RuntimeServiceStub(self._channel)
            self._wait(lambda: self._cri.Status(self._m.StatusRequest(), timeout=5))
            self._import(PAUSE, "/bin/sleep", "2147483647")
            self._import(BUSYBOX, "/bin/sh")
        except BaseException:
            self.close()
            raise

    def _wait(self, attempt: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                attempt()
            except grpc.RpcError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"containerd does not answer: {error}\n{self.log()}") from error
                time.sleep(0.05)
            else:
                return

    def _import(self, name: str, *entrypoint: str) -> None:
        path = self.folder / "image.tar"
        write_image(path, name, *entrypoint)
        # The CRI sees images of the namespace k8s.io only.
        command = ["ctr", "-a", str(self._socket), "-n", "k8s.io", "images", "import", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr + self.log()

    def log(self) -> str:
        """The last of what containerd wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])

    def _call(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._cri, method)(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise AssertionError(f"{method}: {error.details()}\n{self.log()}") from error

    def wait_network_ready(self) -> None:
        """Until the CRI has loaded a conflist."""

        def attempt() -> None:
            status = self._cri.Status(self._m.StatusRequest(), timeout=5).status
            conditions = {condition.type: condition.status for condition in status.conditions}
            if not conditions.get("NetworkReady"):
                raise grpc.RpcError(f"NetworkReady is not true: {status}")

        self._wait(attempt)

    def run_pod(self, name: str) -> Pod:
        """RunPodSandbox, and a container in it that sleeps."""
        m = self._m
        metadata = m.SandboxMetadata(name=name, uid=f"uid-{name}", namespace="default")
        sandbox = m.Sandbox(
            metadata=metadata,
            hostname=name,
            log_directory=str(self.folder),
            linux=m.LinuxSandbox(cgroup_parent=self._cgroup),
        )
        sandbox_id = self._call("RunPodSandbox", m.RunPodSandboxRequest(config=sandbox)).id
        container = m.Container(
            metadata=m.ContainerMetadata(name="main"),
            image=m.Image(image=BUSYBOX),
            command=["/bin/sleep", "2147483647"],
            log_path=f"{name}.log",
            linux=m.LinuxContainer(),
        )
        request = m.CreateContainerRequest(sandbox_id=sandbox_id, config=container, sandbox_config=sandbox)
        container_id = self._call("CreateContainer", request).id
        self._call("StartContainer", m.ContainerId(id=container_id))
        return Pod(self, sandbox_id, container_id)

    def addresses(self, sandbox_id: str) -> list[str]:
        """The addresses that the CRI reports for a sandbox."""
        request = self._m.SandboxStatusRequest(id=sandbox_id)
        network = self._call("PodSandboxStatus", request).status.network
        return [network.ip, *(more.ip for more in network.additional_ips)]

    def execute(self, container_id: str, *command: str) -> str:
        """Standard output of a command in a container; AssertionError if it fails."""
        request = self._m.ExecRequest(container_id=container_id, cmd=command, timeout=20)
        done = self._call("ExecSync", request)
        assert done.exit_code == 0, f"{command}: exit {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return str(done.stdout.decode())

    def stop_pod(self, sandbox_id: str) -> None:
        """StopPodSandbox."""
        self._call("StopPodSandbox", self._m.SandboxId(id=sandbox_id))

    def remove_pod(self, sandbox_id: str) -> None:
        """RemovePodSandbox."""
        self._call("RemovePodSandbox", self._m.SandboxId(id=sandbox_id))

    def mounts(self) -> list[str]:
        """Mount points below its folder, the deepest first: namespaces, root file systems, shared memory."""
        with open("/proc/self/mounts") as mounts:
            points = [line.split()[1] for line in mounts]
        return sorted((point for point in points if point.startswith(f"{self.folder}/")), reverse=True)

    def close(self) -> None:
        """End containerd, its shims and containers, and unmount what a failed test left."""
        if hasattr(self, "_channel"):
            self._channel.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in self.mounts():
            with contextlib.suppress(OSError):
                unmount(point)
        self._remove_cgroups()

    def _remove_cgroups(self) -> None:
        """Cgroups belong to the machine, not to a namespace: the only thing to be removed by hand."""
        for hierarchy in (CGROUPS, *CGROUPS.iterdir()):
            top = hierarchy / self._cgroup.lstrip("/")
            folders = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            for folder in (*folders, top):
                _remove_cgroup(folder)

    def _shims(self) -> list[int]:
        """Shims (they are nobody's children) name our socket; the pods' processes are their children."""
        shims, children = [], []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                command = (folder / "cmdline").read_bytes()
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if str(self._socket).encode() in command and int(folder.name) != os.getpid():
                    shims.append(int(folder.name))
                children.append((int(parent), int(folder.name)))
        return shims + [child for parent, child in children if parent in shims]


class Pod:
    """A sandbox with one container."""

    def __init__(self, containerd: Containerd, sandbox_id: str, container_id: str) -> None:
        self._containerd = containerd
        self.sandbox_id = sandbox_id
        self.container_id = container_id
        self.addresses = containerd.addresses(sandbox_id)

    def execute(self, *command: str) -> str:
        """A command in the pod's container."""
        return self._containerd.execute(self.container_id, *command)

    def stop(self) -> None:
        """StopPodSandbox."""
        self._containerd.stop_pod(self.sandbox_id)

    def remove(self) -> None:
        """RemovePodSandbox."""
        self._containerd.remove_pod(self.sandbox_id)
