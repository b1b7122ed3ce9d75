"""Network namespaces connected by slow, long and lossy links, which this process emulates.

The effect is that of `tc qdisc add … netem delay 50ms rate 20mbit loss 1%` at the interface of each host, for kernels
without netem: every namespace has a TUN device, and this process passes packets between the devices. A packet is lost
with some probability; otherwise it waits until the packets before it are sent at the link's rate, and arrives after the
delay.
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
    """The link on which a host sends; the default is as fast as this process can be.

    Attributes:
        delay: Seconds.
        rate: Bits per second; 0: no limit.
        loss: Probability that a packet is lost.
        queue: Packets that may wait to be sent; further ones are dropped, as by netem's limit.
    """

    delay: float = 0.0
    rate: float = 0.0
    loss: float = 0.0
    queue: int = 1000


@dataclass
class Port:
    """A host's connection to the network.

    Attributes:
        device: File descriptor of its TUN device.
        free: Time at which its link has sent all packets.
        waiting: Packets in transit.
        dropped: Lost packets.
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
            f"{direction}_{unit}": interface["stats64"][direction][unit]
            for direction in ("rx", "tx")
            for unit in ("bytes", "packets")
        }

    @property
    def dropped(self) -> int:
        """Packets lost so far."""
        return sum(port.dropped for port in self.ports.values())

    def switch(self, stopped: threading.Event) -> None:
        """Pass packets until `stopped` is set."""
        chance, order = random.Random(self.seed), count()
        in_transit: list[tuple[float, int, Port, Port, bytes]] = []
        selector = selectors.DefaultSelector()
        for port in self.ports.values():
            selector.register(port.device, selectors.EVENT_READ, port)
        while not stopped.is_set():
            until_next = in_transit[0][0] - time.monotonic() if in_transit else 0.1
            for key, _ in selector.select(min(max(until_next, 0.0), 0.1)):
                source: Port = key.data
                packet = os.read(source.device, LARGEST_PACKET)
                # IPv4's destination is in bytes 16 to 19; packets to any other address are not passed.
                target = self.ports.get(packet[16:20])
                if target is None:
                    continue
                if chance.random() < self.link.loss or source.waiting >= self.link.queue:
                    source.dropped += 1
                    continue
                arrival = departure(source, len(packet), self.link, time.monotonic()) + self.link.delay
                source.waiting += 1
                heapq.heappush(in_transit, (arrival, next(order), source, target, packet))
            while in_transit and in_transit[0][0] <= time.monotonic():
                _, _, source, target, packet = heapq.heappop(in_transit)
                source.waiting -= 1
                os.write(target.device, packet)
        selector.close()


def departure(port: Port, size: int, link: Link, now: float) -> float:
    """Time at which the last bit of a packet is sent, after the packets before it."""
    port.free = max(port.free, now) + (8 * size / link.rate if link.rate else 0.0)
    return port.free


@contextmanager
def wide_area(hosts: int, link: Link, prefix: str = "feddtl") -> Iterator[Network]:
    """A network of that many namespaces, which are removed after the block, also if it fails. Needs root."""
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
    """Those of the namespaces that exist."""
    shown = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    found = {line.split()[0] for line in shown.splitlines() if line}
    return [name for name in names if name in found]


def ip(*words: str) -> None:
    """Call `ip`. Raises RuntimeError with its error message."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def open_tun(namespace: str) -> int:
    """Descriptor of a new TUN device in a namespace, which this thread enters for a moment."""
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
