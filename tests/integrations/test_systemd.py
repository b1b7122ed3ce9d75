"""The units of integrations/systemd: systemd reads them without complaint, and they run commands that exist."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from integrations.services import INTEGRATIONS, parsed_command

UNITS = sorted((INTEGRATIONS / "systemd").glob("*.service"))
PROGRAM = "/opt/feddtl/bin/feddtl"
SECONDS_UNTIL_FLOWER_ACCEPTS_A_CLIENT_AGAIN = 75
LARGEST_EXPOSURE = 20  # tenths; systemd calls up to 2.0 of 10 "OK", and a service without any of this has 9.6

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def service(unit: Path) -> dict[str, str]:
    """The section [Service]. A repeated key is an error."""
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(unit.read_text())
    return dict(parser["Service"])


def examples(unit: Path) -> dict[str, str]:
    """The example values of the environment file in the head of a unit."""
    lines = [line.removeprefix("#").strip() for line in unit.read_text().split("[Unit]")[0].splitlines()]
    return dict(line.split("=", 1) for line in lines if line.split("=")[0].isupper() and "=" in line)


def command(unit: Path) -> list[str]:
    """Words behind the program in ExecStart, with the environment file's values."""
    words = shlex.split(service(unit)["ExecStart"])
    assert words[0] == PROGRAM
    values = {f"${{{name}}}": value for name, value in examples(unit).items()}
    assert all(word in values for word in words if word.startswith("$"))
    return [values.get(word, word) for word in words[1:]]


@pytest.fixture
def installed(tmp_path: Path):
    """The units, with an existing program in place of feddtl."""
    for unit in UNITS:
        text = unit.read_text()
        assert PROGRAM in text
        (tmp_path / unit.name).write_text(text.replace(PROGRAM, shutil.which("true")))
    return tmp_path


@needs_systemd
@each_unit
def test_systemd_reads_them_without_complaint(unit, installed):
    asked = ["systemd-analyze", "verify", "--man=no", str(installed / unit.name)]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")


@needs_systemd
@each_unit
def test_what_a_break_in_could_reach_is_small(unit, installed):
    asked = ["systemd-analyze", "security", "--offline=yes", f"--threshold={LARGEST_EXPOSURE}", "--no-pager"]
    answer = subprocess.run([*asked, str(installed / unit.name)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-200:]


def test_the_server_listens_where_the_proxy_looks_and_nowhere_else(monkeypatch):
    unit = INTEGRATIONS / "systemd" / "feddtl-server.service"
    server = parsed_command(command(unit), monkeypatch)
    assert f"server {server.host}:{server.port};" in (INTEGRATIONS / "nginx" / "feddtl.conf").read_text()
    assert server.host == "127.0.0.1"
    assert service(unit)["IPAddressAllow"] == "localhost"
    assert service(unit)["IPAddressDeny"] == "any"


def test_a_client_has_the_values_of_its_environment_file(monkeypatch):
    unit = INTEGRATIONS / "systemd" / "feddtl-client.service"
    client = parsed_command(command(unit), monkeypatch)
    assert (client.id, client.server) == (0, "federation.example.org:9092")
    assert (client.data, client.model) == (Path("/srv/feddtl/images"), Path("/srv/feddtl/clip"))


@each_unit
def test_a_service_that_fails_is_restarted_and_its_files_are_private(unit):
    found = service(unit)
    assert found["Restart"] == "on-failure"
    assert found["Environment"] == "FEDDTL_STATE=%S/feddtl FEDDTL_CACHE=%C/feddtl"
    assert {found[f"{kind}Directory"] for kind in ("State", "Cache")} == {"feddtl"}
    assert {found[f"{kind}DirectoryMode"] for kind in ("State", "Cache")} == {"0700"}
    assert found["UMask"] == "0077"


def test_a_client_is_restarted_only_when_flower_accepts_it_again():
    delay = int(service(INTEGRATIONS / "systemd" / "feddtl-client.service")["RestartSec"])
    assert delay >= SECONDS_UNTIL_FLOWER_ACCEPTS_A_CLIENT_AGAIN
