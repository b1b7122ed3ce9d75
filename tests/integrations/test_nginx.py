"""integrations/nginx/feddtl.conf in front of `feddtl server` on the loopback address: who gets through, to what."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")
import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from feddtl.launch.keys import write_keys
from feddtl.launch.processes import free_port

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx on the PATH or in /usr/sbin")

SITE = Path(__file__).parents[2] / "integrations" / "nginx" / "feddtl.conf"
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}
# What a SuperNode without a key uses, and the SuperLink refuses when nodes must have keys.
WITHOUT_KEYS = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
# A client's headers with nothing good in them: enough for the proxy, not for the SuperLink.
FORGED = {"flwr-public-key": "eA==", "flwr-timestamp": "2026-01-01T00:00:00+00:00", "flwr-signature": "eA=="}
PIECE = 5 * 2**20  # bytes of a tensor that Flower puts into one message
PER_ADDRESS, IN_ALL = 32, 128  # requests at a time, as in the site file
SECONDS_TO_START = 300


@dataclass(frozen=True)
class Deployment:
    """`feddtl server`, and the proxy.

    Attributes:
        superlink: Port of the server.
        proxy: Port of nginx.
        keys: What `feddtl keys` wrote.
        key: Client 0's.
        node: The id by which the server knows client 0.
    """

    superlink: int
    proxy: int
    keys: Path
    key: ec.EllipticCurvePrivateKey | None = None
    node: int = 0

    @property
    def tls(self):
        """Trusts the federation's authority and no other."""
        return ssl.create_default_context(cafile=self.keys / "client-0" / "ca.crt")

    def nodes(self):
        """The clients that the server knows."""
        reply = self.post(self.superlink, "/v1/control/list-nodes", ListNodesRequest().SerializeToString())
        return ListNodesResponse.FromString(reply.raise_for_status().content).nodes_info

    def post(self, port, path, content=b"", **headers):
        """What nobody signed, with the headers given."""
        with httpx.Client(verify=self.tls) as client:
            return client.post(f"https://localhost:{port}{path}", content=content, headers={**PROTOBUF, **headers})

    @contextmanager
    def client(self, key=None):
        """A SuperNode's own client, at the proxy."""
        key = key or self.key
        signer = NodeAuthHttpInterceptor(key, key.public_key())
        with FleetHttpClient.from_server_address(
            f"localhost:{self.proxy}", False, str(self.keys / "client-0" / "ca.crt"), [signer]
        ) as client:
            yield client


@contextmanager
def running(command, folder, *ports):
    """A process that listens on the ports, stopped at the end."""
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
    try:
        for port in ports:
            wait_for(lambda port=port: listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition):
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.2)


def with_changes(text, changes):
    """The site file with this machine's ports and files; each of them must be in it."""
    for old, new in changes.items():
        assert old in text, f"{SITE} has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx_command(folder, keys, superlink, proxy, **more):
    """nginx with the site file as it is, but for the ports, the folder of the keys and what is given."""
    folder.mkdir()
    changes = {
        **more,
        "server 127.0.0.1:9091;": f"server 127.0.0.1:{superlink};",
        "listen 9092 ssl;": f"listen 127.0.0.1:{proxy} ssl;",
        "/etc/feddtl/server/": f"{keys}/server/",
    }
    (folder / "feddtl.conf").write_text(with_changes(SITE.read_text(), changes))
    # Its folders for temporary files, or nginx wants to write to /var/lib.
    stores = "".join(f"{name}_temp_path {name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = "daemon off; pid nginx.pid; error_log stderr; worker_processes 1; events {}\n"
    (folder / "nginx.conf").write_text(f"{main}http {{ access_log access.log; {stores} include feddtl.conf; }}\n")
    return [NGINX, "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr"]


FEDDTL = [sys.executable, "-m", "feddtl"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    found = Deployment(free_port(), free_port(), folder / "keys", None)
    write_keys(found.keys, [], 1, 1)
    server = [*FEDDTL, "server", "--keys", str(found.keys), "--port", str(found.superlink), "--state", str(folder)]
    nginx = nginx_command(folder / "nginx", found.keys, found.superlink, found.proxy)
    with running(server, folder, found.superlink), running(nginx, folder / "nginx", found.proxy):
        wait_for(found.nodes)
        key = serialization.load_ssh_private_key((found.keys / "client-0" / "node.key").read_bytes(), None)
        yield replace(found, key=key, node=found.nodes()[0].node_id)


def test_a_client_with_a_key_gets_through(deployment):
    """Its signed headers pass the end of TLS, and a piece of a tensor passes the limit on sizes."""
    node = Node(node_id=deployment.node)
    with deployment.client() as client:
        public_key = public_key_to_bytes(deployment.key.public_key())
        activated = client.ActivateNode(ActivateNodeRequest(public_key=public_key, heartbeat_interval=30))
        assert activated.node_id == deployment.node
        assert client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)).success
        assert not client.PullMessages(PullMessagesRequest(node=node)).messages_list
        piece = PushObjectRequest(node=node, run_id=1, object_id="a", object_content=bytes(PIECE))
        with pytest.raises(httpx.HTTPStatusError) as caught:
            client.PushObject(piece)
        client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))
    # There is no such run: the SuperLink says so, which it does in JSON.
    assert caught.value.response.headers["content-type"] == "application/json"


def test_a_real_client_connects_through_the_proxy(deployment, tmp_path):
    command = [*FEDDTL, "client", "--id", "0", "--server", f"localhost:{deployment.proxy}"]
    command += ["--keys", str(deployment.keys), "--state", str(tmp_path)]

    def online():
        return any(node.node_id == deployment.node and node.status == "online" for node in deployment.nodes())

    assert not online()
    with running(command, tmp_path):
        wait_for(online)


def test_an_unknown_key_is_refused_by_the_superlink(deployment):
    with (
        deployment.client(ec.generate_private_key(ec.SECP256R1())) as client,
        pytest.raises(httpx.HTTPStatusError) as caught,
    ):
        client.PullMessages(PullMessagesRequest(node=Node(node_id=deployment.node)))
    assert caught.value.response.status_code == httpx.codes.UNAUTHORIZED


def is_superlinks(reply):
    """Whether the SuperLink gave the answer, which it does in JSON, and not nginx, which writes HTML."""
    return reply.headers["content-type"] == "application/json"


def test_every_route_of_the_superlink_but_those_of_clients_ends_at_the_proxy(deployment):
    """The SuperLink lists its routes itself, so that a later Flower that adds one is noticed.

    Nothing here is signed: where the proxy lets it through, the SuperLink answers 401, in JSON.
    """
    with httpx.Client(verify=deployment.tls) as client:
        paths = client.get(f"https://localhost:{deployment.superlink}/openapi.json").json()["paths"]
    fleet = {path for path in paths if path.startswith("/v1/fleet/")}
    assert fleet > WITHOUT_KEYS
    assert sum(path.startswith(("/v1/control/", "/v1/runtime/")) for path in paths) > 50
    every = [*paths, "/docs", "/openapi.json"]
    answers = {path: deployment.post(deployment.proxy, path, **FORGED).status_code for path in every}
    let_through = {path for path, status in answers.items() if status == httpx.codes.UNAUTHORIZED}
    assert let_through == fleet - WITHOUT_KEYS
    assert all(is_superlinks(deployment.post(deployment.proxy, path, **FORGED)) for path in let_through)
    assert {answers[path] for path in answers if path not in let_through} == {httpx.codes.NOT_FOUND}


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/control/list-nodes", "/v1/runtime/acquire-task"])
def test_what_the_proxy_is_for(deployment, path):
    """At the SuperLink itself nobody is asked who is calling: the claims of docs/explanation/security.md."""
    assert deployment.post(deployment.superlink, path).status_code == httpx.codes.OK
    assert deployment.post(deployment.proxy, path).status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/pull-messages%0aX:%20y",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/control%2flist-runs",
        "//v1/control/list-runs",
        "/v1/control/list-runs?/v1/fleet/pull-messages",
        "/v1/control/list-runs#/../../fleet/pull-messages",
        "/v1/fleet/pull-messages%00/../../control/list-runs",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages%0a",
        "/V1/FLEET/PULL-MESSAGES",
        "https://localhost/v1/control/list-runs",
    ],
)
def test_ways_of_writing_a_path_do_not_get_around_the_list(deployment, path):
    context = deployment.tls
    connection = http.client.HTTPSConnection("localhost", deployment.proxy, context=context, timeout=30)
    connection.putrequest("POST", "/", skip_host=True)
    connection._buffer[0] = f"POST {path} HTTP/1.1".encode()  # Python's client would refuse some of them
    for name, value in {"Host": "localhost", "Content-Length": "0", **PROTOBUF}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == (400 if "%00" in path else 404)
    connection.close()


def test_a_path_is_sent_on_as_it_was_compared(deployment):
    """What means a route of clients reaches it: unsigned, it is 401 and not the SuperLink's 404."""
    written = "/v1/control/%2e%2e/fleet/pull-messages?a=b"
    reply = deployment.post(deployment.proxy, written, **FORGED)
    assert reply.status_code == httpx.codes.UNAUTHORIZED
    assert is_superlinks(reply)


@pytest.mark.parametrize("missing", list(FORGED))
def test_without_one_of_the_headers_of_a_signature_nothing_reaches_the_superlink(deployment, missing):
    headers = {name: value for name, value in FORGED.items() if name != missing}
    reply = deployment.post(deployment.proxy, "/v1/fleet/push-object", **headers)
    assert reply.status_code == httpx.codes.UNAUTHORIZED
    assert not is_superlinks(reply)


def test_other_methods_larger_bodies_and_plain_http_are_refused(deployment):
    path = "/v1/fleet/pull-messages"
    with httpx.Client(verify=deployment.tls) as client:
        assert client.get(f"https://localhost:{deployment.proxy}{path}").status_code == 405
    assert deployment.post(deployment.proxy, path, bytes(6 * 2**20 + 1)).status_code == 413
    plain = httpx.post(f"http://localhost:{deployment.proxy}{path}", headers=PROTOBUF)
    assert plain.status_code == 400
    assert "plain HTTP request was sent to HTTPS port" in plain.text


def test_while_the_superlink_is_away_clients_are_told_to_try_again(tmp_path):
    """502 is among the answers after which a SuperNode tries again; 401 would end it, and 403 its run."""
    write_keys(tmp_path / "keys", [], 1, 1)
    alone = Deployment(free_port(), free_port(), tmp_path / "keys")
    command = nginx_command(tmp_path / "nginx", alone.keys, alone.superlink, alone.proxy)
    with running(command, tmp_path / "nginx", alone.proxy):
        reply = alone.post(alone.proxy, "/v1/fleet/pull-messages", **FORGED)
    assert reply.status_code == httpx.codes.BAD_GATEWAY


@pytest.fixture
def proxy_alone(tmp_path):
    """A proxy whose SuperLink is away, with changes to the site file: what it lets through is 502."""
    write_keys(tmp_path / "keys", [], 1, 1)
    alone = Deployment(free_port(), free_port(), tmp_path / "keys")

    @contextmanager
    def start(**changes):
        command = nginx_command(tmp_path / "nginx", alone.keys, alone.superlink, alone.proxy, **changes)
        with running(command, tmp_path / "nginx", alone.proxy):
            yield alone

    return start


def hold(deployment, address):
    """A connection from the address whose request says that a body will come, and does not send it."""
    raw = socket.create_connection(("127.0.0.1", deployment.proxy), timeout=30, source_address=(address, 0))
    connection = deployment.tls.wrap_socket(raw, server_hostname="localhost")
    headers = {"Host": "localhost", "Content-Length": str(PIECE), **PROTOBUF, **FORGED}
    lines = ["POST /v1/fleet/push-object HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection


def let_in(deployment, address):
    """Whether a whole request from the address is let through: 502, since nothing is behind the proxy, and not 503."""
    transport = httpx.HTTPTransport(verify=deployment.tls, local_address=address)
    with httpx.Client(transport=transport) as client:
        url = f"https://localhost:{deployment.proxy}/v1/fleet/pull-messages"
        status = client.post(url, headers={**PROTOBUF, **FORGED}).status_code
    assert status in (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE)
    return status == httpx.codes.BAD_GATEWAY


def test_one_address_holds_so_many_requests_and_no_more(proxy_alone):
    """A stranger who sends bodies slowly fills so much memory; others are served meanwhile, and he too afterwards."""
    with proxy_alone() as proxy:
        with ExitStack() as held:
            for _ in range(PER_ADDRESS - 1):
                held.enter_context(hold(proxy, "127.0.0.2"))
            assert let_in(proxy, "127.0.0.2")
            held.enter_context(hold(proxy, "127.0.0.2"))
            wait_for(lambda: not let_in(proxy, "127.0.0.2"))
            assert let_in(proxy, "127.0.0.3")
        wait_for(lambda: let_in(proxy, "127.0.0.2"))


def test_all_addresses_together_hold_so_many_requests_and_no_more(proxy_alone):
    """The memory that nginx gives to bodies is bounded, whoever asks."""
    with proxy_alone() as proxy, ExitStack() as held:
        addresses = [f"127.0.0.{number}" for number in range(2, 2 + IN_ALL // PER_ADDRESS)]
        assert let_in(proxy, "127.0.0.99")
        for address, _ in product(addresses, range(PER_ADDRESS)):
            held.enter_context(hold(proxy, address))
        wait_for(lambda: not let_in(proxy, "127.0.0.99"))


def test_a_fast_client_waits_and_is_not_refused(proxy_alone):
    """At 10 a second, 8 requests take at least 0.7 s: the first at once, each of the other 7 a tenth later."""
    with proxy_alone(**{"rate=200r/s": "rate=10r/s"}) as proxy:
        begun = time.monotonic()
        assert all(let_in(proxy, "127.0.0.1") for _ in range(8))
        assert time.monotonic() - begun > 0.69


def test_the_superlink_must_show_its_certificate(deployment, tmp_path):
    """Where nginx has the keys of another federation, it sends nothing on."""
    write_keys(tmp_path / "keys", [], 1, 1)
    astray = Deployment(deployment.superlink, free_port(), tmp_path / "keys")
    command = nginx_command(tmp_path / "nginx", astray.keys, astray.superlink, astray.proxy)
    with running(command, tmp_path / "nginx", astray.proxy):
        reply = astray.post(astray.proxy, "/v1/fleet/pull-messages", **FORGED)
        log = (tmp_path / "nginx" / "log").read_text()
    assert reply.status_code == httpx.codes.BAD_GATEWAY
    assert re.search("certificate verify error", log)
