"""Server and clients in separate network namespaces, near and far apart: seconds and bytes of a round.

    sudo python -m benchmarks.federation.hosts

All traffic passes the links of `wide_area`. The result has the bytes of tensors, which the records count, and the bytes
at the interfaces, which include TLS, HTTP, Flower's own messages and retransmissions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.federation.federation import SERVER, SUBMIT, Federation, records_of, require_root, wait_for
from benchmarks.federation.processes import processes
from benchmarks.federation.results import add_result
from benchmarks.federation.wide_area import Link, Network, wide_area
from feddtl.config import DataConfig, DeploymentConfig, EvaluationConfig, Experiment, LoraConfig
from feddtl.launch.connection import client_name

FAR = Link(delay=0.05, rate=20e6, loss=0.01)
SECONDS_TO_END = 3600.0


def measure(experiment: Experiment, network: Network) -> dict[str, Any]:
    """Run the experiment over a network: host 0 is the server, host k + 1 client k."""
    hosts = {SERVER: 0, **{client_name(client): client + 1 for client in range(experiment.data.client_count)}}
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        federation = Federation(
            Path(folder),
            experiment.data.client_count,
            started,
            host=network.address(0),
            prefix=lambda role: ("ip", "netns", "exec", network.names[hosts[role]]),
        )
        federation.write_keys()
        federation.start_server()
        for client in range(experiment.data.client_count):
            federation.start_client(client)
        run, output = federation.submit(experiment, Path(folder) / "run"), Path(folder) / "run"
        marks: list[dict[str, float]] = []
        while len(marks) < experiment.rounds:
            wait_for("a round", lambda: len(records_of(output)) > len(marks) or run.poll(), SECONDS_TO_END)
            if run.poll():
                raise RuntimeError(f"the run failed:\n{federation.output(SUBMIT)[-1500:]}")
            marks.append({"at": time.monotonic(), **network.counters(0)})
        run.wait()
        records = records_of(output)
    # The first round includes the start of all processes, the last the evaluation by all clients.
    spans = list(pairwise(marks))
    return {
        "median_round_seconds": median(after["at"] - before["at"] for before, after in spans),
        "round_seconds": [after["at"] - before["at"] for before, after in spans],
        "counted_bytes_up": median(record["bytes_up"] for record in records[1:]),
        "counted_bytes_down": median(record["bytes_down"] for record in records[1:]),
        "interface_bytes_up": median(after["rx_bytes"] - before["rx_bytes"] for before, after in spans),
        "interface_bytes_down": median(after["tx_bytes"] - before["tx_bytes"] for before, after in spans),
        "lost_updates": sum(len(record["lost"]) for record in records),
        "dropped_packets": network.dropped,
        "packets": marks[-1]["rx_packets"] + marks[-1]["tx_packets"],
    }


def main() -> None:
    """Measure near and far, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4, help="3 or more; the first is not counted")
    parser.add_argument("--rank", type=int, default=4, help="of the adapters: 6 kB of an update for each")
    arguments = parser.parse_args()
    require_root()
    experiment = Experiment(
        model="tiny-clip",
        rounds=arguments.rounds,
        lora=LoraConfig(rank=arguments.rank),
        data=DataConfig(clients=arguments.clients, shots=4, partition="iid", test_images_per_class=1),
        evaluation=EvaluationConfig(every=arguments.rounds, client_models="never"),
        deployment=DeploymentConfig(min_clients=arguments.clients),
    )
    for name, link in (("near", Link()), ("far", FAR)):
        with wide_area(arguments.clients + 1, link) as network:
            found = measure(experiment, network)
        add_result("hosts", f"{name}, rank {arguments.rank}", found, {**vars(arguments), "link": asdict(link)})
        print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()
