"""Many clients and large replies: memory and time per round, compared with the same experiment in one process.

    python -m benchmarks.federation.load --clients 100 --rounds 20
    python -m benchmarks.federation.load --name "64 MB replies" --clients 4 --rounds 3 --rank 10923 \
        --runtimes in-process simulation deployment

`in-process` is `feddtl run`, `simulation` is Flower's simulation with Ray, and `deployment` is `feddtl server`,
`feddtl client` and `feddtl submit` with TLS on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.federation.federation import SERVER, SUBMIT, Federation, records_of
from benchmarks.federation.processes import Processes, Watch, processes
from benchmarks.federation.results import add_result
from feddtl.config import DataConfig, EvaluationConfig, Experiment, LoraConfig, ScheduleConfig, UplinkConfig
from feddtl.launch.connection import client_name

RUNTIMES = ("in-process", "simulation", "deployment")
SECONDS_TO_END = 3600.0


@dataclass(frozen=True)
class Load:
    """The flags of the command with the same names."""

    clients: int
    rounds: int
    rank: int
    shots: int

    def experiment(self) -> Experiment:
        """FedDTL's SFT stage on generated shapes; with few test images, because scoring is not measured."""
        return Experiment(
            model="tiny-clip",
            rounds=self.rounds,
            lora=LoraConfig(rank=self.rank),
            schedule=ScheduleConfig(stages="sft"),
            data=DataConfig(
                class_split="half",
                source="shapes",
                clients=self.clients,
                shots=self.shots,
                partition="iid",
                test_images_per_class=1,
            ),
            # A very high rank makes large updates.
            uplink=UplinkConfig(max_update_norm=1e6),
            evaluation=EvaluationConfig(every=self.rounds, client_models="never"),
        )


def run_in_process(load: Load, output: Path) -> None:
    """All clients in this process."""
    from feddtl.experiment import run_experiment

    run_experiment(load.experiment(), output)


def run_simulation(load: Load, output: Path) -> None:
    """Server in this process, clients in Ray's processes, one for each core."""
    from flwr.simulation import run_simulation as simulate

    from feddtl.deployment import answer, serve
    from feddtl.runtimes.flower.apps import client_app, server_app

    simulate(
        server_app(lambda grid, _: void(serve(load.experiment(), output, grid))),
        client_app(answer),
        num_supernodes=load.clients,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": os.cpu_count() or 1}},
    )


def void(_: object) -> None:
    """A server app returns nothing."""


def measure(runtime: str, load: Load) -> dict[str, Any]:
    """Run the experiment in new processes; their memory, and the time and bytes of its rounds."""
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        root, output = Path(folder), Path(folder) / "run"
        roles = [SERVER, SUBMIT, *map(client_name, range(load.clients))] if runtime == "deployment" else [""]
        watch = Watch(started, roles)
        watch.start()
        if runtime == "deployment":
            deploy(load, Federation(root, load.clients, started), output)
        else:
            run_child(runtime, load, started, root)
        watch.stop()
        records = records_of(output)
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    seconds = [round(sum(record["seconds"].values()), 2) for record in records]
    return {
        "peak_bytes_by_program": watch.peaks,
        "all_processes_peak_bytes": watch.most,
        "processes": len(watch.seen),
        "first_round_seconds": seconds[0],
        "median_round_seconds": median(seconds[1:]),
        "round_seconds": seconds,
        "phases": {name: [record["seconds"].get(name, 0.0) for record in records] for name in records[0]["seconds"]},
        "bytes_up_per_client": records[0]["bytes_up"] / load.clients,
        "bytes_down_per_client": records[0]["bytes_down"] / load.clients,
        "lost": sum(len(record["lost"]) for record in records),
        "final": summary["final"],
    }


def run_child(runtime: str, load: Load, started: Processes, root: Path) -> None:
    """Run a runtime that is a single command."""
    command = [sys.executable, "-m", "benchmarks.federation.load", "--child", runtime, str(root / "run")]
    for key, value in asdict(load).items():
        command += [f"--{key}", str(value)]
    environment = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_HOME": str(root / "flwr"),
        "FEDDTL_CACHE": str(root / "cache"),
        "RAY_raylet_start_wait_time_s": "600",  # the default of a minute is too short on a busy machine
    }
    if started.start(command, root / "log", environment).wait():
        raise RuntimeError(f"{' '.join(command)} failed:\n{(root / 'log').read_text(encoding='utf-8')[-4000:]}")


def deploy(load: Load, federation: Federation, output: Path) -> None:
    """Run server and clients as on separate machines."""
    federation.write_keys()
    federation.start_server()
    for client in range(load.clients):
        federation.start_client(client)
    if federation.submit(load.experiment(), output).wait(SECONDS_TO_END):
        raise RuntimeError(f"the run failed:\n{federation.output(SUBMIT)[-4000:]}")


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="many clients", help="name of the result")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20, help="3 or more")
    parser.add_argument("--rank", type=int, default=4, help="of the adapters: 1536 numbers of an update for each")
    parser.add_argument("--shots", type=int, default=40, help="training images of each of the 32 classes, all clients")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES[:2])
    parser.add_argument("--child", nargs=2, metavar=("RUNTIME", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    load = Load(arguments.clients, arguments.rounds, arguments.rank, arguments.shots)
    if arguments.child:
        runtime, output = arguments.child
        {"in-process": run_in_process, "simulation": run_simulation}[runtime](load, Path(output))
        return
    for runtime in arguments.runtimes:
        found = measure(runtime, load)
        add_result("load", f"{arguments.name}, {runtime}", found, asdict(load))
        print(json.dumps({runtime: {key: found[key] for key in found if key not in ("round_seconds", "phases")}}))


if __name__ == "__main__":
    main()
