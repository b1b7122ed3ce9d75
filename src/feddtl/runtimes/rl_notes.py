"""What a user should know about the RL rounds of a run."""

from __future__ import annotations

from collections.abc import Sequence

from feddtl.config import RlConfig
from feddtl.records import RoundRecord

# A group whose rewards are equal has no advantage. At this share, more than half of the batches of 64 have no image
# with an advantage (0.99^64 = 0.53), so that little but the KL is left of the loss.
ALL_EQUAL_SHARE = 0.99
# With at least this mean reward, groups are equal because the images are classified correctly; with at most the rest
# of it, because hardly any copy is.
SOLVED_REWARD = 0.99
# Of fewer groups, a whole round may happen to be equal although a part of 1% has an advantage: 0.99^100 = 0.37.
FEWEST_GROUPS = 100
# A step that clearly changes how many copies change their class, and far from the noise that hides the feature.
MORE_NOISE = 3.0
PAGE = "docs/how-to/choose-the-noise.md"


def rl_notes(config: RlConfig, records: Sequence[RoundRecord], images: Sequence[int] = ()) -> tuple[str, ...]:
    """The notes that the rounds so far have given reason for, each once, in the order of their rounds.

    Args:
        config: RL settings.
        records: Of the rounds so far, of both stages.
        images: Training images of each client, each of which is a group; empty: not known, and enough.
    """
    rounds = [record for record in records if "all_equal_groups" in record.train]
    notes = [_automatic_noise(record) for record in rounds[:1] if "noise_std" in record.train]
    enough = [record for record in rounds if not images or _groups(record, images) >= FEWEST_GROUPS]
    silent = (record for record in enough if record.train["all_equal_groups"] > ALL_EQUAL_SHARE)
    return (*notes, *(_teaches_nothing(config, record) for record in list(silent)[:1]))


def measured_noise(records: Sequence[RoundRecord]) -> float | None:
    """Mean of the automatic σ over the images of the first RL round; None for a σ that is set, or without RL rounds."""
    return next((record.train["noise_std"] for record in records if "noise_std" in record.train), None)


def _groups(record: RoundRecord, images: Sequence[int]) -> int:
    return sum(images[client] for client in record.clients)


def _automatic_noise(record: RoundRecord) -> str:
    return (
        f"rl.noise_std = 'auto' is {record.train['noise_std']:.3g} on average over the images of round {record.round}, "
        "the first RL round."
    )


def _teaches_nothing(config: RlConfig, record: RoundRecord) -> str:
    share, reward = record.train["all_equal_groups"], record.train["reward"]
    fact = f"Round {record.round} teaches almost nothing: all rewards are equal in {100 * share:.1f}% of the groups"
    if reward >= SOLVED_REWARD:
        return f"{fact}, and the mean reward is {reward:.2f}: the training images are already classified correctly."
    if reward <= 1 - SOLVED_REWARD:
        return (
            f"{fact}, and the mean reward is {reward:.2f}: hardly a noisy copy is classified correctly. Either the "
            f"model does not know these classes yet, or the noise hides them; see {PAGE}."
        )
    present = record.train["noise_std"] if config.noise_std == "auto" else config.noise_std
    more = f"{MORE_NOISE * present:.2g}, three times as much"
    if config.noise_std == "auto":
        setting, remedy = f"'auto' ({present:.3g} on average)", f"Set rl.noise_std = {more}"
    else:
        # What 'auto' amounts to is measured only where it is set, and may be less than a number that is.
        otherwise = f" or, where that is not above {present:g}, {more}" if present else ""
        setting, remedy = f"{present!r}", f"Set rl.noise_std = 'auto'{otherwise}"
    return (
        f"{fact}, and the mean reward is {reward:.2f}: rl.noise_std = {setting} is too small to change predictions. "
        f"{remedy}; see {PAGE}."
    )
