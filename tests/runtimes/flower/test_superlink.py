"""`feddtl server` knows every client's key from the first moment in which its port answers."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from feddtl.launch.connection import Address, unreachable
from feddtl.launch.keys import write_keys
from feddtl.launch.processes import free_port

CLIENTS = 12


def activate(keys, client, port):
    """What a SuperNode with the client's key does first; raises where the server refuses it."""
    key = load_ssh_private_key((keys / f"client-{client}" / "node.key").read_bytes(), None)
    authority, signer = str(keys / f"client-{client}" / "ca.crt"), NodeAuthHttpInterceptor(key, key.public_key())
    with FleetHttpClient.from_server_address(f"127.0.0.1:{port}", False, authority, [signer]) as server:
        public = public_key_to_bytes(key.public_key())
        return server.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30)).node_id


def test_clients_that_wait_for_the_server_are_accepted_the_moment_it_answers(tmp_path):
    """The last key first, since it would be registered last."""
    keys, port = tmp_path / "keys", free_port()
    write_keys(keys, [], CLIENTS, 1)
    command = [sys.executable, "-m", "feddtl", "server", "--keys", keys, "--port", str(port), "--state", tmp_path]
    address, authority, log = Address("127.0.0.1", port), keys / "client-0" / "ca.crt", tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + 120
        while unreachable(address, authority):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
        nodes = [activate(keys, client, port) for client in reversed(range(CLIENTS))]
        assert len(set(nodes)) == CLIENTS
    finally:
        server.terminate()
        server.wait(60)
    assert "traceback" not in log.read_text().lower()
