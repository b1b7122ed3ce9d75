"""What a user is told about RL rounds: once, in the first round that gives reason for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_records import made_record

from feddtl.config import RlConfig
from feddtl.methods.catalog import build_method
from feddtl.observers import RunObserver
from feddtl.runtimes.rl_notes import measured_noise, rl_notes
from feddtl.runtimes.runtime import Progress, Runtime


def sft(number):
    return made_record(number, train={"loss": 1.0})


def rl(number, share, reward=0.6, **more):
    return made_record(number, stage="rl", train={"all_equal_groups": share, "reward": reward, **more})


def test_first_round_that_teaches_nothing_is_named_once():
    records = [sft(1), rl(2, 0.99), rl(3, 0.998), rl(4, 1.0)]
    assert rl_notes(RlConfig(), records[:2]) == ()
    [note] = rl_notes(RlConfig(), records)
    assert note == rl_notes(RlConfig(), records[:3])[0]
    assert note.startswith("Round 3 teaches almost nothing: all rewards are equal in 99.8% of the groups")
    assert "rl.noise_std = 0.1 is too small" in note
    assert "Set rl.noise_std = 'auto' or, where that is not above 0.1, 0.3, three times as much; see docs/" in note


def test_few_groups_say_nothing():
    """A round counts the images of its own clients; images that are elsewhere are not counted."""
    records = [made_record(1, stage="rl", clients=[0, 2], train={"all_equal_groups": 1.0, "reward": 0.6})]
    assert rl_notes(RlConfig(), records, [50, 1000, 49]) == ()
    assert len(rl_notes(RlConfig(), records, [50, 0, 50])) == len(rl_notes(RlConfig(), records)) == 1


def test_no_noise_has_no_threefold():
    [note] = rl_notes(RlConfig(noise_std=0.0), [rl(1, 1.0)])
    assert "Set rl.noise_std = 'auto'; see docs/how-to/choose-the-noise.md." in note


def test_nothing_left_to_learn_needs_no_more_noise():
    [note] = rl_notes(RlConfig(), [rl(2, 1.0, reward=0.995)])
    assert "already classified correctly" in note
    assert "noise_std" not in note


def test_images_of_which_no_copy_is_right_need_no_more_noise():
    """Wrong whatever the noise: more of it would not help."""
    [note] = rl_notes(RlConfig(), [rl(2, 1.0, reward=0.0)])
    assert "hardly a noisy copy is classified correctly" in note
    assert "too small" not in note


def test_automatic_noise_is_stated_once():
    records = [sft(1), rl(2, 0.5, noise_std=0.8712), rl(3, 1.0, noise_std=0.096)]
    config = RlConfig(noise_std="auto")
    first, second = rl_notes(config, records)
    assert first == "rl.noise_std = 'auto' is 0.871 on average over the images of round 2, the first RL round."
    assert "rl.noise_std = 'auto' (0.096 on average) is too small" in second
    assert "Set rl.noise_std = 0.29, three times as much" in second
    assert measured_noise(records) == 0.8712
    assert measured_noise(records[:1]) is None


@pytest.mark.parametrize("resumed", [False, True])
def test_run_says_it_once_and_keeps_it(federation, make_experiment, resumed, monkeypatch):
    """σ = 0 in three RL rounds, in one go or resumed after the second."""
    monkeypatch.setattr("feddtl.runtimes.rl_notes.FEWEST_GROUPS", 2)

    class Notes(RunObserver):
        def __init__(self):
            self.texts = []

        def note(self, text):
            self.texts.append(text)

    experiment = make_experiment(rl={"noise_std": 0.0}, schedule={"sft_rounds": 1})
    method, notes = build_method(federation.task, experiment), Notes()

    def runtime(experiment):
        return Runtime(method, federation.clients(method), federation.sets(method), experiment, notes)

    start = Progress(method.init_server())
    if resumed:
        start = runtime(replace(experiment, rounds=2)).run(start)
        assert len(notes.texts) == 1
    progress = runtime(experiment).run(start)
    [text] = notes.texts
    assert text.startswith("Round 2 teaches almost nothing")
    assert rl_notes(experiment.rl, progress.records) == (text,)
