"""Whether a run can get another number of rounds and be what it had been with that number from the start."""

from __future__ import annotations

import shlex
from pathlib import Path

from feddtl.config import Experiment
from feddtl.errors import RunError
from feddtl.run_files import has_clients_elsewhere


def require_extendable(path: Path, before: Experiment, after: Experiment, done: int) -> None:
    """Check that the finished rounds of a run are those of the same experiment with another number of rounds.

    Args:
        path: Folder of the run.
        before: Its experiment.
        after: The same with another number of rounds.
        done: Its finished rounds.

    Raises:
        RunError: They are not; the message says why.
    """
    if after.rounds <= done:
        raise RunError(
            f"{path} has finished {done} of {before.rounds} rounds, so it cannot become a run of {after.rounds}.",
            f"Choose --rounds {done + 1} or more, or start a new run with another --output.",
        )
    command, name = "submit" if has_clients_elsewhere(path) else "run", shlex.quote(str(path))
    if reason := _difference(before, after, done):
        raise RunError(
            f"{path} has finished {done} of {before.rounds} rounds, and with rounds = {after.rounds} they would have "
            f"been others: {reason}.",
            f"Start a new run: `feddtl {command} --rounds {after.rounds} --output {name}-{after.rounds}`, with the "
            f"other settings of this one. With --init-from {name}, it starts from the model of this one.",
        )


def _difference(before: Experiment, after: Experiment, done: int) -> str:
    """Why the finished rounds depend on the number of rounds; empty if they do not."""
    if not done:
        return ""
    if ".py:" in before.method:
        return f"the method {before.method} is not feddtl's own, and may use the number of rounds"
    old, new = before.training, after.training
    # An asynchronous client may already have begun the round after the last finished one.
    for number in range(1, done + 2):
        if old.stage(number) != new.stage(number):
            return (
                f"round {number} belongs to the {old.stage(number).upper()} stage there, and to the "
                f"{new.stage(number).upper()} stage with the other number, because schedule.sft_rounds = 0 means half "
                "of all rounds"
            )
    if (old.last_sft_round < old.rounds) != (new.last_sft_round < new.rounds):
        return "only one of the two has an RL stage, for which the model at the end of SFT is kept"
    return ""
