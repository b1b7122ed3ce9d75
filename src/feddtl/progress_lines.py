"""A run in lines of text: what is about to run, and each round."""

from __future__ import annotations

import math

from feddtl.config import Experiment
from feddtl.config.running import SCORED_IMAGES
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.methods.catalog import method_entry
from feddtl.records import RoundRecord
from feddtl.units import ClientNames, counted, duration, percent, scores_line


def start_lines(experiment: Experiment, data: FederatedData, zero_shot: Scores, rounds_done: int) -> list[str]:
    """What is about to run, and the zero-shot score, aligned with `round_line`."""
    lines = [
        f"{method_entry(experiment.method).title} on {data.name}, model {experiment.model_name}, seed {experiment.seed}"
    ]
    base, novel = counted(len(data.base_names), "base class"), counted(len(data.novel_names), "novel class")
    clients = counted(experiment.data.client_count, ClientNames(data.sites).noun)
    if data.on_clients:
        lines.append(f"{clients} with images of their own: {base}, {novel}")
    else:
        lines += [
            f"{counted(len(data.train), 'training image')} of {base} {'at' if data.sites else 'on'} {clients} "
            f"({experiment.data.regime}, {experiment.data.partition}), {novel}",
            f"zero-shot{'':<{5 + 2 * len(str(experiment.rounds))}}{scores_line(zero_shot.as_dict())}",
        ]
    if data.scored != "test" and data.on_clients:  # elsewhere a note of the data says so, with their number
        lines.append(f"accuracies are on {SCORED_IMAGES[data.scored]}; no test image is read")
    if rounds_done:
        lines.append(f"resuming after round {rounds_done} of {experiment.rounds}")
    return lines


def round_line(record: RoundRecord, rounds: int, *, virtual_time: bool = False) -> str:
    """One round on one line; with a simulated clock, it has the virtual time since the start."""
    train, found = record.train, record.headline
    # The loss of reinforcement learning says little, and with it the line would not fit 80 columns.
    progress = f"reward {train['reward']:.2f}" if "reward" in train else f"loss {train.get('loss', math.nan):7.4f}"
    if record.lost:
        progress += f"  lost {len(record.lost)}"
    if record.discounted:
        progress += f"  discounted {len(record.discounted)}"
    if virtual_time:
        progress += f"  virtual {duration(record.virtual_seconds, precise=True)}"
    width = len(str(rounds))
    scores = f"local {percent(found['local']):>5}" if record.scores else "not scored"
    if record.is_scored:
        scores = scores_line(found)
    seconds = sum(record.seconds.values())
    return f"round {record.round:>{width}}/{rounds} {record.stage:<4}  {scores}  {progress}  {seconds:.1f} s"


def counted_line(
    round_number: int, federated: FederatedAccuracy, rounds: int, scored: str = SCORED_IMAGES["test"]
) -> str:
    """The clients' scores of the model after a round, which arrive one round later; `scored` is what they scored."""
    when = f"after round {round_number}/{rounds}" if round_number else "before training"
    images = counted(federated.base_images + federated.novel_images, scored.removesuffix("s"))
    where = f"{images} on {counted(len(federated.clients), 'client')}"
    if federated.missing:
        where = federated.coverage()
    return f"{when}  {scores_line(federated.scores)}  ({where})"
