"""A server and five clients in separate processes, three of which are killed with SIGKILL; the run must still finish.

    python -m benchmarks.federation.faults

Client 1 is killed while it trains, client 2 between two rounds, and the server with its run during a round; optionally
also the run alone, while its server stays up. A killed process is restarted at once, as a service manager does, and the
run is resumed. The script fails unless all rounds are finished and the records name the lost updates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.federation.federation import SERVER, SUBMIT, Federation, records_of, wait_for
from benchmarks.federation.processes import processes
from benchmarks.federation.results import add_result
from feddtl.config import DataConfig, DeploymentConfig, EvaluationConfig, Experiment
from feddtl.launch.connection import client_name

FIRST, SECOND = 1, 2  # the clients that are killed


@dataclass
class Log:
    """Events of the scenario, with seconds since its start."""

    begun: float = field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = field(default_factory=list)

    def add(self, event: str) -> None:
        """Record and print an event."""
        self.events.append({"seconds": round(time.monotonic() - self.begun, 1), "event": event})
        print(f"{self.events[-1]['seconds']:7.1f} s  {event}", flush=True)


@dataclass(frozen=True)
class Faults:
    """The rounds in which processes are killed.

    Attributes:
        in_round: Client 1, while it trains in this round.
        between: Client 2, after this round; 0: never.
        run: Only the run's process, in this round; 0: never.
        server: The server and its run, in this round.
    """

    in_round: int = 2
    between: int = 3
    run: int = 0
    server: int = 5


@dataclass(frozen=True)
class Scenario:
    """The run and its faults.

    Attributes:
        federation: The processes.
        faults: When processes are killed.
        output: Run folder.
        timeout: Seconds that a round may take.
        log: Events.
    """

    federation: Federation
    faults: Faults
    output: Path
    timeout: float
    log: Log = field(default_factory=Log)

    def play(self, experiment: Experiment) -> None:
        """Start all processes, kill and restart some, resume the run, and wait for its end."""
        federation, faults = self.federation, self.faults
        federation.write_keys()
        federation.start_server()
        for client in range(federation.clients):
            federation.start_client(client)
        run = federation.submit(experiment, self.output)
        self.log.add(f"run submitted to a server with {federation.clients} clients")
        self._after(faults.in_round - 1)
        self._wait_until_trains(FIRST, faults.in_round)
        self._kill_client(FIRST, f"while it trains in round {faults.in_round}")
        if faults.between:
            self._after(faults.between)
            self._kill_client(SECOND, f"after round {faults.between}")
        if faults.run:
            self._after(faults.run - 1)
            self._wait_until_trains(0, faults.run)
            federation.processes.kill(SERVER, "flwr-serverapp")
            self._failed(run, f"the run alone killed in round {faults.run}")
            run = federation.submit(experiment, self.output, resume=True)
        self._after(faults.server - 1)
        self._wait_until_trains(0, faults.server)
        federation.processes.kill(SERVER)
        self._failed(run, f"server and run killed in round {faults.server}")
        federation.start_server()
        self.log.add("server started again")
        self._resume(experiment)

    def _resume(self, experiment: Experiment) -> None:
        """Repeat `feddtl submit --resume` until the server accepts and finishes the run."""
        tries, deadline = 0, time.monotonic() + self.timeout
        while True:
            tries += 1
            run = self.federation.submit(experiment, self.output, resume=True)
            code = run.wait(self.timeout * experiment.rounds)
            if code == 0:
                self.log.add(f"run finished; the resumption was tried {tries} times")
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the resumed run ended with {code}:\n{self.federation.output(SUBMIT)[-1500:]}")
            time.sleep(2.0)

    def _failed(self, run: subprocess.Popen[bytes], fault: str) -> None:
        self.log.add(fault)
        if run.wait(self.timeout) == 0:
            raise RuntimeError(f"{fault}, but `feddtl submit` reported a finished run")
        self.log.add(f"feddtl submit ended with exit code {run.returncode}")

    def _kill_client(self, client: int, when: str) -> None:
        self.federation.processes.kill(client_name(client))
        self.log.add(f"client {client} killed {when}")
        self.federation.start_client(client)
        self.log.add(f"client {client} started again")

    def _after(self, number: int) -> None:
        self._wait(f"round {number}", lambda: len(records_of(self.output)) >= number)
        self.log.add(f"round {number} is done")

    def _wait_until_trains(self, client: int, number: int) -> None:
        self._wait(f"client {client} trains in round {number}", lambda: self.federation.trains(client, number))

    def _wait(self, event: str, condition: Callable[[], object]) -> None:
        try:
            wait_for(event, condition, self.timeout)
        except TimeoutError as error:
            roles = [SERVER, SUBMIT, *map(client_name, range(self.federation.clients))]
            logs = [f"--- {role}\n{self.federation.output(role)[-1500:]}" for role in roles]
            raise RuntimeError("\n".join([str(error), *logs])) from None


def outcome(scenario: Scenario, experiment: Experiment) -> dict[str, Any]:
    """The result. Raises RuntimeError unless all rounds are finished and the records name the killed clients."""
    records, faults = records_of(scenario.output), scenario.faults
    rounds = [record["round"] for record in records]
    lost = {record["round"]: record.get("failures", {}) for record in records if record["lost"]}
    if rounds != list(range(1, experiment.rounds + 1)) or not (scenario.output / "summary.json").is_file():
        raise RuntimeError(f"finished rounds: {rounds}")
    killed = {faults.in_round: FIRST, **({faults.between + 1: SECOND} if faults.between else {})}
    if any(str(client) not in lost.get(number, {}) for number, client in killed.items()):
        raise RuntimeError(f"lost by round: {lost}; expected client by round: {killed}")
    return {
        "events": scenario.log.events,
        "rounds": [
            {
                "round": record["round"],
                "clients": sorted(map(int, record["train_by_client"])),
                "failures": record.get("failures", {}),
                "seconds": round(sum(record["seconds"].values()), 1),
            }
            for record in records
        ],
    }


def main() -> None:
    """Run the scenario and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5, help="3 or more")
    parser.add_argument("--rounds", type=int, default=6, help="5 or more")
    parser.add_argument("--round-timeout", type=float, default=300.0, help="seconds")
    arguments = parser.parse_args()
    experiment = Experiment(
        model="tiny-clip",
        rounds=arguments.rounds,
        data=DataConfig(clients=arguments.clients, shots=4, partition="iid", test_images_per_class=1),
        evaluation=EvaluationConfig(client_models="never"),
        deployment=DeploymentConfig(min_clients=2, round_timeout=arguments.round_timeout),
    )
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        federation = Federation(Path(folder), arguments.clients, started)
        scenario = Scenario(federation, Faults(), Path(folder) / "run", 2 * arguments.round_timeout)
        scenario.play(experiment)
        found = outcome(scenario, experiment)
    add_result("faults", "three kills", found, vars(arguments))
    print(json.dumps(found["rounds"], indent=1))


if __name__ == "__main__":
    main()
