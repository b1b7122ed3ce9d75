"""integrations/compose: the file is valid, its commands exist, and only the proxy can reach the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from integrations.services import INTEGRATIONS, parsed_command

ROOT = INTEGRATIONS.parent
FOLDER = INTEGRATIONS / "compose"
FILE = FOLDER / "compose.yaml"


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load(FILE.read_text())["services"]


def plain(words):
    """Words of a command with the defaults of the variables in them."""
    return [
        word.replace("${CLIENT_ID:-0}", "0").replace("${SERVER:-localhost:9092}", "localhost:9092") for word in words
    ]


def mounted(service):
    """Paths of the read-only folders in the container."""
    return {
        target: right
        for *_, target, right in (volume.rsplit(":", 2) for volume in service["volumes"] if ":ro" in volume)
    }


def has_compose():
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="needs docker compose")
@pytest.mark.parametrize("profile", ["server", "client"])
def test_docker_reads_it(profile):
    asked = ["docker", "compose", "--file", str(FILE), "--profile", profile, "config", "--quiet"]
    environment = {**os.environ, "KEYS": "/keys", "MODEL": "/clip"}
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0, answer.stderr


def test_only_the_proxy_is_reached_from_outside(services, monkeypatch):
    """The server shares the proxy's network, and listens on the loopback address where the proxy looks for it."""
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    site = (INTEGRATIONS / "nginx" / "feddtl.conf").read_text()
    (published,) = services["proxy"]["ports"]
    assert f"listen {published.split(':')[1]} ssl;" in site
    assert services["server"]["network_mode"] == "service:proxy"
    server = parsed_command(plain(services["server"]["command"]), monkeypatch)
    assert f"server {server.host}:{server.port};" in site


def test_the_proxy_has_the_site_file_and_the_keys_that_it_names(services):
    sources = {volume.split(":")[0] for volume in services["proxy"]["volumes"]}
    assert "../nginx/feddtl.conf" in sources
    assert "/etc/feddtl/server" in mounted(services["proxy"])


def test_paths_of_the_commands_are_mounted_and_images_and_keys_cannot_be_written(services, monkeypatch):
    client = parsed_command(plain(services["client"]["command"]), monkeypatch)
    assert {str(client.keys), str(client.data), str(client.model)} == set(mounted(services["client"]))
    server = parsed_command(plain(services["server"]["command"]), monkeypatch)
    assert str(server.keys) in mounted(services["server"])


@pytest.mark.parametrize("name", ["server", "client"])
def test_a_container_writes_to_the_folders_of_the_image_only(services, name):
    """The volumes are the folders that the image uses for its state and its cache."""
    dockerfile = (FOLDER / "Dockerfile").read_text()
    kept = dict(volume.split(":") for volume in services[name]["volumes"] if volume.startswith(("state:", "cache:")))
    assert f"FEDDTL_STATE={kept['state']} FEDDTL_CACHE={kept['cache']} " in dockerfile
    assert f"--mode 0700 {kept['state']} {kept['cache']}" in dockerfile
    assert services[name]["read_only"]
    assert services[name]["cap_drop"] == ["ALL"]


def test_the_image_is_built_from_files_that_exist_and_are_in_the_build_context(services):
    build = services["server"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    shown = [line.removeprefix("!") for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()]
    assert shown.pop(0) == "*"
    copied = [
        word
        for line in (FOLDER / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for word in line.split()[1:-1]
    ]
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) or Path(path).is_relative_to(pattern) for pattern in shown), path
