"""Five clients and a server in processes of their own, three of which are killed with SIGKILL; the run must end.

    python -m benchmarks.federation.faults

Client 1 is killed while it trains, client 2 between two rounds, the server with its run while a round goes on. What
died is started again at once, as a service manager does it, and the run is resumed. The script fails unless all
rounds are done and the records name what was lost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.federation.federation import SERVER, SUBMIT, Federation, client_name, records_of, wait_for
from benchmarks.federation.processes import processes
from benchmarks.federation.results import add_result
from feddtl.config import DataConfig, DeploymentConfig, EvaluationConfig, Experiment

IN_ROUND, BETWEEN, SERVER_ROUND = 2, 3, 5  # client 1 dies in round 2, client 2 after round 3, the server in round 5
FIRST, SECOND = 1, 2


@dataclass
class Log:
    """What was done to the federation, with seconds since the run was submitted."""

    begun: float = field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Keep and show an event."""
        self.events.append({"seconds": round(time.monotonic() - self.begun, 1), "event": what})
        print(f"{self.events[-1]['seconds']:7.1f} s  {what}", flush=True)


@dataclass(frozen=True)
class Scenario:
    """The run and its faults.

    Attributes:
        federation: The processes.
        output: Run folder.
        patience: Seconds that a round may take.
        log: What happened.
    """

    federation: Federation
    output: Path
    patience: float
    log: Log

    def play(self, experiment: Experiment) -> None:
        """Start everything, kill, restart, resume, and wait for the end."""
        federation = self.federation
        federation.start_server()
        for client in range(federation.clients):
            federation.start_client(client)
        run = federation.submit(experiment, self.output)
        self.log.add(f"run submitted to a server with {federation.clients} clients")
        self._after(IN_ROUND - 1)
        self._wait(f"client {FIRST} trains in round {IN_ROUND}", lambda: federation.trains(FIRST))
        self._kill_client(FIRST, f"while it trains in round {IN_ROUND}")
        self._after(BETWEEN)
        self._kill_client(SECOND, f"after round {BETWEEN}")
        self._after(SERVER_ROUND - 1)
        self._wait(f"client 0 trains in round {SERVER_ROUND}", lambda: federation.trains(0))
        federation.processes.kill(SERVER)
        self.log.add(f"server and run killed in round {SERVER_ROUND}; rounds done: {len(records_of(self.output))}")
        code = run.wait(self.patience)
        self.log.add(f"feddtl submit ended with exit code {code}")
        if code == 0:
            raise RuntimeError("a run whose server died is taken for finished")
        federation.start_server()
        self.log.add("server started again")
        self._resume(experiment)

    def _resume(self, experiment: Experiment) -> None:
        """`feddtl submit --resume`, as soon as the server takes it."""
        tries, deadline = 0, time.monotonic() + self.patience
        while True:
            tries += 1
            run = self.federation.submit(experiment, self.output, resume=True)
            code = run.wait(self.patience * experiment.rounds)
            if code == 0:
                self.log.add(f"run finished; the resumption was tried {tries} times")
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the resumed run ended with {code}:\n{self.federation.said(SUBMIT)[-1500:]}")
            time.sleep(2.0)

    def _kill_client(self, client: int, when: str) -> None:
        self.federation.processes.kill(client_name(client))
        self.log.add(f"client {client} killed {when}")
        self.federation.start_client(client)
        self.log.add(f"client {client} started again")

    def _after(self, number: int) -> None:
        self._wait(f"round {number}", lambda: len(records_of(self.output)) >= number)
        self.log.add(f"round {number} is done")

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        try:
            wait_for(what, condition, self.patience)
        except TimeoutError as error:
            parties = [SERVER, SUBMIT, *map(client_name, range(self.federation.clients))]
            logs = [f"--- {party}\n{self.federation.said(party)[-1500:]}" for party in parties]
            raise RuntimeError("\n".join([str(error), *logs])) from None


def outcome(experiment: Experiment, output: Path, log: Log) -> dict[str, Any]:
    """What came of it. Raises RuntimeError unless all rounds are done and both killed clients are named."""
    records = records_of(output)
    rounds = [record["round"] for record in records]
    lost = {record["round"]: record.get("failures", {}) for record in records if record["lost"]}
    if rounds != list(range(1, experiment.rounds + 1)) or not (output / "summary.json").is_file():
        raise RuntimeError(f"rounds done: {rounds}")
    if str(FIRST) not in lost.get(IN_ROUND, {}) or str(SECOND) not in lost.get(BETWEEN + 1, {}):
        raise RuntimeError(f"lost: {lost}")
    return {
        "events": log.events,
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
    """Play the scenario, and write the result."""
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
        federation.write_keys()
        log = Log()
        scenario = Scenario(federation, Path(folder) / "run", 2 * arguments.round_timeout, log)
        scenario.play(experiment)
        found = outcome(experiment, scenario.output, log)
    add_result("faults", "three kills", found, vars(arguments))
    print(json.dumps(found["rounds"], indent=1))


if __name__ == "__main__":
    main()
