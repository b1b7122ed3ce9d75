"""Network namespaces whose only way to each other is slow, far and lossy, switched in this process.

What `tc qdisc add … netem delay 50ms rate 20mbit loss 1%` does at the interface of each host, for kernels that are
built without netem: every namespace has a TUN device, and this process passes the packets between them. A packet that a
host sends is lost with a probability, waits until those before it are through at the rate, and arrives a delay later.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

DEVICE = "wan0"
LARGEST_PACKET = 65536
TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000  # linux/if_tun.h, linux/sched.h


@dataclass(frozen=True)
class Link:
    """How what a host sends travels; the default is as fast as this process can be.

    Attributes:
        delay: Seconds.
        rate: Bits per second; 0: no limit.
        loss: Probability that a packet is lost.
        queue: Packets that wait for their turn; more are dropped, as by netem's limit.
    """

    delay: float = 0.0
    rate: float = 0.0
    loss: float = 0.0
    queue: int = 1000


@dataclass
class Port:
    """A host's end of the network.

    Attributes:
        device: File descriptor of its TUN device.
        free: When its link has sent all that it was given.
        waiting: Packets that are on their way.
        dropped: Packets that were lost.
    """

    device: int
    free: float = 0.0
    waiting: int = 0
    dropped: int = 0


@dataclass
class Network:
    """Namespaces PREFIX-0, PREFIX-1, … with the addresses 10.77.0.1, 10.77.0.2, …; see `wide_area`."""

    names: list[str]
    link: Link
    seed: int = 0
    ports: dict[bytes, Port] = field(default_factory=dict)

    @staticmethod
    def address(position: int) -> str:
        """Address of a host by its position."""
        return f"10.77.0.{position + 1}"

    def counters(self, position: int) -> dict[str, int]:
        """Bytes and packets that a host's interface has sent (tx) and received (rx)."""
        command = ["ip", "-n", self.names[position], "-s", "-j", "link", "show", DEVICE]
        shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        [interface] = [entry for entry in shown if entry]
        return {
            f"{way}_{unit}": interface["stats64"][way][unit] for way in ("rx", "tx") for unit in ("bytes", "packets")
        }

    @property
    def dropped(self) -> int:
        """Packets that were lost so far."""
        return sum(port.dropped for port in self.ports.values())

    def switch(self, stopped: threading.Event) -> None:
        """Pass packets until told to stop."""
        chance, order = random.Random(self.seed), count()
        on_their_way: list[tuple[float, int, Port, Port, bytes]] = []
        selector = selectors.DefaultSelector()
        for port in self.ports.values():
            selector.register(port.device, selectors.EVENT_READ, port)
        while not stopped.is_set():
            until_next = on_their_way[0][0] - time.monotonic() if on_their_way else 0.1
            for key, _ in selector.select(min(max(until_next, 0.0), 0.1)):
                source: Port = key.data
                packet = os.read(source.device, LARGEST_PACKET)
                # IPv4's destination is in bytes 16 to 19; what a host says to nobody here is not passed.
                target = self.ports.get(packet[16:20])
                if target is None:
                    continue
                if chance.random() < self.link.loss or source.waiting >= self.link.queue:
                    source.dropped += 1
                    continue
                arrival = departure(source, len(packet), self.link, time.monotonic()) + self.link.delay
                source.waiting += 1
                heapq.heappush(on_their_way, (arrival, next(order), source, target, packet))
            while on_their_way and on_their_way[0][0] <= time.monotonic():
                _, _, source, target, packet = heapq.heappop(on_their_way)
                source.waiting -= 1
                os.write(target.device, packet)
        selector.close()


def departure(port: Port, size: int, link: Link, now: float) -> float:
    """When the last bit of a packet leaves, after those that wait before it."""
    port.free = max(port.free, now) + (8 * size / link.rate if link.rate else 0.0)
    return port.free


@contextmanager
def wide_area(hosts: int, link: Link, prefix: str = "feddtl") -> Iterator[Network]:
    """A network of that many namespaces; they are gone after the block, also when it fails. Needs root."""
    network = Network([f"{prefix}-{position}" for position in range(hosts)], link)
    stopped = threading.Event()
    try:
        for position, name in enumerate(network.names):
            ip("netns", "add", name)
            port = Port(open_tun(name))
            network.ports[socket.inet_aton(network.address(position))] = port
            ip("-n", name, "addr", "add", f"{network.address(position)}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                ip("-n", name, "link", "set", device, "up")
        switching = threading.Thread(target=network.switch, args=(stopped,), daemon=True)
        switching.start()
        yield network
        stopped.set()
        switching.join()
    finally:
        stopped.set()
        for port in network.ports.values():
            os.close(port.device)
        for name in existing(network.names):
            ip("netns", "delete", name)


def existing(names: Sequence[str]) -> list[str]:
    """Those namespaces that there are."""
    shown = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    there = {line.split()[0] for line in shown.splitlines() if line}
    return [name for name in names if name in there]


def ip(*words: str) -> None:
    """A call of `ip`; RuntimeError with what it says where it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def open_tun(namespace: str) -> int:
    """A new TUN device in a namespace; this thread enters it for a moment, and the descriptor stays here."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        finally:
            if libc.setns(home, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot leave the namespace")
    finally:
        os.close(home)
        os.close(there)
    return device
