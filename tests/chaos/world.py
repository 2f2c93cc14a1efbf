# SPDX-License-Identifier: Apache-2.0
"""What a run runs on: nats-servers, sidecars and the proxy between everything."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from support.jetstream import wait_jetstream
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import SidecarProcess

from sidecar.model.stream import StreamPlan, first_offset

from .proxy_process import ProxyProcess
from .wire import Silence, Wire, read_replica

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from .checker import Message
    from .options import Options

STREAM: Final = "hermes"
MIRROR: Final = "backup"
DUPLICATE_WINDOW: Final = 100_000_000
"""0.1 s in nanoseconds: nothing here may rest on JetStream's deduplication."""

_DISK_BYTES = 256 * 1024 * 1024
_CLUSTER = """
cluster {{
  name: c, host: 127.0.0.1, port: {port}, advertise: "127.0.0.1:{front}"
  no_advertise: true
  routes: [{routes}]
}}
"""
_LEAF = """
leafnodes {{ remotes: [{{ url: "nats-leaf://127.0.0.1:{port}" }}], reconnect: 1 }}
"""
_LEAF_SECONDS = 5.0
_LEAF_CONNECTED = "Leafnode connection created"


def can_mount() -> str | None:
    """Say why no disk can be filled here, or None."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("mount") is None:
        return "no mount command"
    return None


class World:
    """Everything under the producers, for the length of a run."""

    def __init__(
        self, options: Options, directory: Path, rng: random.Random, binary: Path
    ) -> None:
        self.options = options
        self.directory = directory
        self.disk: Path | None = None
        self._stack = ExitStack()
        self.is_cluster = options.topology == "cluster"
        self.replicas = 3 if self.is_cluster else 1
        self.publish_timeout_seconds = rng.choice([1, 1.5, 3])
        self.first_offset = first_offset(1_700_000_000 + options.seed, None)
        self.current = 0
        self._gates: dict[str, dict[str, Any]] = {}
        self._leaf_port = free_port()
        self.nodes = self._make_nodes(binary)
        self.leaf = NatsProcess(
            directory / "leaf",
            "leaf",
            jetstream="domain: leaf",
            extra=_LEAF.format(port=self._leaf_port),
            binary=binary,
        )
        url = ",".join(self._nats_front(node) for node in self.nodes)
        count = 2 if options.topology == "two-sidecars" else 1
        self.sidecars = [
            SidecarProcess(
                directory / f"s{number}",
                nats_url=url,
                log_level="warning",
                publish_timeout_seconds=self.publish_timeout_seconds,
            )
            for number in range(count)
        ]
        self._gates["http"] = {
            "kind": "http",
            "listen": str(directory / "front.sock"),
            "targets": [str(each.socket) for each in self.sidecars],
            "self_fencing": options.publisher == "self-fencing",
        }
        self.proxy = ProxyProcess(self._gates)

    @property
    def url(self) -> str:
        """Where the plugins go: past the proxy if it has nothing to do there."""
        is_needed = (
            len(self.sidecars) > 1
            or self.options.publisher == "self-fencing"
            or any(name.startswith("http_") for name in self.options.faults)
        )
        if not is_needed:
            return self.sidecar.url
        return f"unix://{self.directory / 'front.sock'}"

    def _nats_front(self, node: NatsProcess) -> str:
        port = free_port()
        self._gates[f"nats {node.name}"] = {
            "kind": "nats",
            "listen": str(port),
            "targets": [str(node.port)],
        }
        return f"nats://127.0.0.1:{port}"

    def _make_nodes(self, binary: Path) -> list[NatsProcess]:
        names = [f"n{number}" for number in range(1, self.replicas + 1)]
        extras = self._cluster_extras(names) if self.is_cluster else [""]
        extras[0] += f'leafnodes {{ host: "127.0.0.1", port: {self._leaf_port} }}\n'
        return [
            NatsProcess(
                self.directory / name,
                name,
                port=free_port(),
                extra=extra,
                binary=binary,
            )
            for name, extra in zip(names, extras, strict=True)
        ]

    def _cluster_extras(self, names: list[str]) -> list[str]:
        ports = {name: (free_port(), free_port()) for name in names}
        for name, (port, front) in ports.items():
            self._gates[f"route {name}"] = {
                "kind": "route",
                "node": name,
                "listen": str(front),
                "targets": [str(port)],
            }
        return [
            _CLUSTER.format(
                port=port,
                front=front,
                routes=", ".join(
                    f'"nats://127.0.0.1:{other}"'
                    for other_name, (_, other) in ports.items()
                    if other_name != name
                ),
            )
            for name, (port, front) in ports.items()
        ]

    # -- Its life ----------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.proxy)
            if "disk_full" in self.options.faults:
                self._mount(stack)
            stack.callback(self.leaf.stop)
            for node in self.nodes:
                stack.callback(node.stop)
                node.start()
            for node in self.nodes:
                node.wait()
                wait_jetstream(node.port)
            self._create_stream()
            for sidecar in self.sidecars:
                stack.callback(sidecar.stop)
                sidecar.start()
            for sidecar in self.sidecars:
                sidecar.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _mount(self, stack: ExitStack) -> None:
        disk = self.nodes[0].directory / "data"
        disk.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "chaos", str(disk)]
        subprocess.run(["mount", *options], check=True)  # noqa: S607
        stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
        self.disk = disk

    def _create_stream(self) -> None:
        plan = StreamPlan(STREAM, STREAM, self.replicas, max_age_days=0)
        config = plan.config(self.first_offset) | {"duplicate_window": DUPLICATE_WINDOW}
        if self.options.seed % 4:
            config["allow_atomic"] = True  # nats-server 2.11 passes over it

        def created() -> bool:
            try:
                with Wire(self.nodes[0].port, 5) as wire:
                    wire.api(f"STREAM.CREATE.{STREAM}", config)
            except Silence:
                return False
            return True

        wait_until(created, 60, "the stream is created")

    # -- What the faults ask for -------------------------------------------------------

    def restart(self, node: NatsProcess) -> None:
        """Start a node that was killed or stopped, and wait until it greets."""
        node.start()
        node.wait()

    def start_leaf(self) -> bool:
        """Start a leaf node whose stream takes in our subjects; tell if it answers."""
        connections = self.leaf.output().count(_LEAF_CONNECTED)
        self.leaf.start()
        try:
            wait_until(lambda: self._leaf_listens(connections), _LEAF_SECONDS)
        except AssertionError:
            self.leaf.kill()
            return False
        return True

    def _leaf_listens(self, connections: int) -> bool:
        if self.leaf.output().count(_LEAF_CONNECTED) == connections:
            return False
        with suppress(*Silence), Wire(self.leaf.port) as wire:
            with suppress(AssertionError):  # it is kept from one start to the next
                wire.create("other", STREAM)
            return "messages" in wire.state("other")
        return False

    def remove_mirror(self, seconds: float = 60) -> None:
        """Delete the mirror, if there is one."""

        def is_gone() -> bool:
            with suppress(*Silence), self.wire() as wire:
                if MIRROR not in wire.names():
                    return True
                wire.delete(MIRROR)
            return False

        wait_until(is_gone, seconds, "the mirror is deleted")

    def wire(self) -> Wire:
        """Connect to a node that knows the stream's leader; raise one of Silence."""
        for node in self.nodes:
            with suppress(*Silence):
                wire = Wire(node.port)
                try:
                    wire.info(STREAM)
                except Silence:
                    wire.__exit__()
                    raise
                return wire
        raise OSError("no node answers")

    def leader(self) -> NatsProcess:
        """Give the stream's leader, or any node while there is none."""
        try:
            with self.wire() as wire:
                name = wire.info(STREAM).get("cluster", {}).get("leader")
        except Silence:
            name = None
        return next((node for node in self.nodes if node.name == name), self.nodes[0])

    def has_live_replicas(self) -> bool:
        """Tell whether each replica is current and was heard of lately."""
        try:
            with self.wire() as wire:
                replicas = wire.info(STREAM)["cluster"].get("replicas", [])
        except Silence:
            return False
        return len(replicas) == self.replicas - 1 and all(
            each.get("current") and each.get("active", 0) < 2_000_000_000
            for each in replicas
        )

    @property
    def sidecar(self) -> SidecarProcess:
        """The sidecar that new connections of the plugins reach."""
        return self.sidecars[self.current]

    def switch(self) -> None:
        """Lead the plugins to the other sidecar."""
        self.current = (self.current + 1) % len(self.sidecars)
        self.proxy.order("route", target=self.current)

    # -- What the checker asks for -----------------------------------------------------

    def deaths(self) -> list[str]:
        """Name what died although no fault left it dead."""
        return [
            f"{process.log.stem} in {process.log.parent.name} died by itself"
            for process in (*self.nodes, *self.sidecars)
            if not process.is_alive
        ]

    def heal(self) -> None:
        """Bring back whatever a fault may have left away."""
        self.proxy.order("join")
        self.proxy.order("odd", share=0)
        for kind in ("http", "nats"):
            self.proxy.order("delay", kind=kind, seconds=0)
            self.proxy.order("lose", kind=kind, share=0)
            self.proxy.order("disarm", kind=kind)
        for process in (*self.nodes, *self.sidecars):
            if process.is_alive:
                process.thaw()
            else:
                process.start()

    def read(self) -> dict[str, list[Message]]:
        """Read the whole stream, once from each replica, by the name of its node."""
        copies = {}
        for node in self.nodes:
            self.settle()
            with ExitStack() as stack:
                for other in self.nodes:
                    if other is not node:
                        stack.callback(other.thaw)
                        other.freeze()
                copies[node.name] = read_replica(node.port, STREAM, self.first_offset)
        return copies

    def last_offset(self) -> int:
        """Say where the stream ends."""
        self.settle()
        with self.wire() as wire:
            return int(wire.info(STREAM)["state"]["last_seq"])

    def settle(self) -> None:
        """Wait until each replica holds what the leader holds."""
        wait_until(self._is_settled, 60, "the stream has a leader and its replicas")

    def _is_settled(self) -> bool:
        if self.is_cluster:
            return self.has_live_replicas()
        try:
            with self.wire():
                return True
        except Silence:
            return False
