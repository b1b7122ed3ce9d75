"""integrations/nginx/feddtl.conf in front of a real SuperLink on the loopback address: who gets through, to what."""

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
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")
import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse, RegisterNodeRequest, RegisterNodeResponse
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx on the PATH or in /usr/sbin")

SITE = Path(__file__).parents[2] / "integrations" / "nginx" / "feddtl.conf"
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}
# What a SuperNode without a key uses, and the SuperLink refuses when nodes must have keys.
WITHOUT_KEYS = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
PIECE = 5 * 2**20  # bytes of a tensor that Flower puts into one message
SECONDS_TO_START = 90


@dataclass(frozen=True)
class Deployment:
    """A SuperLink that asks nodes for keys, and the proxy.

    Attributes:
        superlink: Port of the SuperLink.
        proxy: Port of nginx.
        certificate: Of both.
        key: Of a node that the SuperLink knows as `node`.
        node: Its id.
    """

    superlink: int
    proxy: int
    certificate: Path
    key: ec.EllipticCurvePrivateKey
    node: int

    def post(self, port, path, content=b"", **headers):
        """What nobody signed."""
        with httpx.Client(verify=ssl.create_default_context(cafile=self.certificate)) as client:
            return client.post(f"https://localhost:{port}{path}", content=content, headers={**PROTOBUF, **headers})

    @contextmanager
    def client(self, key=None):
        """A SuperNode's own client, at the proxy."""
        key = key or self.key
        signer = NodeAuthHttpInterceptor(key, key.public_key())
        with FleetHttpClient.from_server_address(
            f"localhost:{self.proxy}", False, str(self.certificate), [signer]
        ) as client:
            yield client


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(name):
    """One of Flower's programs, of this environment."""
    return str(Path(sys.executable).parent / name)


def make_certificate(folder):
    """A certificate for localhost that is its own authority."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    key, certificate = folder / "server.key", folder / "server.pem"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), "-addext", names, *files], check=True, capture_output=True)
    return certificate, key


def environment(home):
    """No usage data, no installation at run time, a home of its own; and Flower's commands on the PATH."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


@contextmanager
def running(command, folder, *ports):
    """A process that listens on the ports, stopped at the end."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder / "flwr"), stdout=stream, stderr=subprocess.STDOUT
        )
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


def replaced(text, changes):
    """The site file with this machine's ports and files; each of them must be in it."""
    for old, new in changes.items():
        assert old in text, f"{SITE} has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx_command(folder, certificate, key, superlink, proxy):
    """nginx with the site file as it is, but for ports and paths of certificates."""
    folder.mkdir()
    changes = {
        "server 127.0.0.1:9091;": f"server 127.0.0.1:{superlink};",
        "listen 9092 ssl;": f"listen 127.0.0.1:{proxy} ssl;",
        "/etc/feddtl/server/server.crt": str(certificate),
        "/etc/feddtl/server/server.key": str(key),
        "/etc/feddtl/server/ca.crt": str(certificate),
    }
    (folder / "feddtl.conf").write_text(replaced(SITE.read_text(), changes))
    # Its folders for temporary files, or nginx wants to write to /var/lib.
    stores = "".join(f"{name}_temp_path {name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = "daemon off; pid nginx.pid; error_log stderr; worker_processes 1; events {}\n"
    (folder / "nginx.conf").write_text(f"{main}http {{ access_log access.log; {stores} include feddtl.conf; }}\n")
    return [NGINX, "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    certificate, tls_key = make_certificate(folder)
    superlink, proxy = free_port(), free_port()
    command = [program("flower-superlink"), "--host", "127.0.0.1", "--port", str(superlink)]
    command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(tls_key)]
    command += ["--ssl-ca-certfile", str(certificate), "--enable-supernode-auth"]
    nginx = nginx_command(folder / "nginx", certificate, tls_key, superlink, proxy)
    key = ec.generate_private_key(ec.SECP256R1())
    with ExitStack() as stack:
        stack.enter_context(running(command, folder, superlink))
        stack.enter_context(running(nginx, folder / "nginx", proxy))
        request = RegisterNodeRequest(public_key=public_key_to_bytes(key.public_key()))
        reply = Deployment(superlink, proxy, certificate, key, 0).post(
            superlink, "/v1/control/register-node", request.SerializeToString()
        )
        node = RegisterNodeResponse.FromString(reply.raise_for_status().content).node_id
        yield Deployment(superlink, proxy, certificate, key, node)


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
    # There is no such run: the SuperLink says so, which it does in JSON.
    assert caught.value.response.headers["content-type"] == "application/json"


def test_a_real_supernode_connects_through_the_proxy(deployment, tmp_path):
    openssh = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    (tmp_path / "node").write_bytes(deployment.key.private_bytes(*openssh))
    command = [program("flower-supernode"), "--superlink", f"localhost:{deployment.proxy}"]
    command += ["--root-certificates", str(deployment.certificate), "--port", str(free_port())]
    command += ["--auth-supernode-private-key", str(tmp_path / "node")]

    def online():
        content = ListNodesRequest().SerializeToString()
        reply = deployment.post(deployment.superlink, "/v1/control/list-nodes", content)
        nodes = ListNodesResponse.FromString(reply.content).nodes_info
        return any(node.node_id == deployment.node and node.status == "online" for node in nodes)

    with running(command, tmp_path):
        wait_for(online)


def test_an_unknown_key_is_refused_by_the_superlink(deployment):
    with (
        deployment.client(ec.generate_private_key(ec.SECP256R1())) as client,
        pytest.raises(httpx.HTTPStatusError) as caught,
    ):
        client.PullMessages(PullMessagesRequest(node=Node(node_id=deployment.node)))
    assert caught.value.response.status_code == httpx.codes.UNAUTHORIZED


def test_every_route_of_the_superlink_but_those_of_clients_ends_at_the_proxy(deployment):
    """The SuperLink lists its routes itself, so that a later Flower that adds one is noticed.

    Nothing here is signed: where the proxy lets it through, the SuperLink answers 401.
    """
    with httpx.Client(verify=ssl.create_default_context(cafile=deployment.certificate)) as client:
        paths = client.get(f"https://localhost:{deployment.superlink}/openapi.json").json()["paths"]
    fleet = {path for path in paths if path.startswith("/v1/fleet/")}
    assert fleet > WITHOUT_KEYS
    assert sum(path.startswith(("/v1/control/", "/v1/runtime/")) for path in paths) > 50
    every = [*paths, "/docs", "/openapi.json"]
    answers = {path: deployment.post(deployment.proxy, path).status_code for path in every}
    let_through = {path for path, status in answers.items() if status == httpx.codes.UNAUTHORIZED}
    assert let_through == fleet - WITHOUT_KEYS
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
    context = ssl.create_default_context(cafile=deployment.certificate)
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
    assert deployment.post(deployment.proxy, written).status_code == httpx.codes.UNAUTHORIZED


def test_other_methods_larger_bodies_and_plain_http_are_refused(deployment):
    path = "/v1/fleet/pull-messages"
    with httpx.Client(verify=ssl.create_default_context(cafile=deployment.certificate)) as client:
        assert client.get(f"https://localhost:{deployment.proxy}{path}").status_code == 405
    assert deployment.post(deployment.proxy, path, bytes(17 * 2**20)).status_code == 413
    plain = httpx.post(f"http://localhost:{deployment.proxy}{path}", headers=PROTOBUF)
    assert plain.status_code == 400
    assert "plain HTTP request was sent to HTTPS port" in plain.text


def test_while_the_superlink_is_away_clients_are_told_to_try_again(tmp_path):
    """502 is among the answers after which a SuperNode tries again; 401 would end it, and 403 its run."""
    certificate, tls_key = make_certificate(tmp_path)
    proxy = free_port()
    command = nginx_command(tmp_path / "nginx", certificate, tls_key, free_port(), proxy)
    with running(command, tmp_path / "nginx", proxy):
        reply = Deployment(0, proxy, certificate, None, 0).post(proxy, "/v1/fleet/pull-messages")
    assert reply.status_code == httpx.codes.BAD_GATEWAY


def test_the_superlink_must_show_its_certificate(deployment, tmp_path):
    """With another authority's certificate nginx sends nothing on."""
    certificate, tls_key = make_certificate(tmp_path)
    proxy = free_port()
    command = nginx_command(tmp_path / "nginx", certificate, tls_key, deployment.superlink, proxy)
    with running(command, tmp_path / "nginx", proxy):
        reply = Deployment(0, proxy, certificate, None, 0).post(proxy, "/v1/fleet/pull-messages")
        log = (tmp_path / "nginx" / "nginx.log").read_text()
    assert reply.status_code == httpx.codes.BAD_GATEWAY
    assert re.search("certificate verify error", log)
