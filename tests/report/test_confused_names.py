"""Predictions against counts by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from feddtl.evaluate import Predictions
from feddtl.predictions import ImagePredictions
from feddtl.report.confusion import Pair, by_class, changed_images, confused_pairs, corrected_and_broken, halves_figure
from feddtl.results.grouping import SettingRuns, settings_of
from feddtl.results.reading import collect

ANT, BEE, CAT, DOG, ELK = range(5)  # ant, bee, cat are base classes, dog and elk novel
LABELS = [ANT, ANT, ANT, BEE, DOG, DOG]
BEFORE = Predictions(torch.tensor([ANT, BEE, CAT, BEE, DOG, ELK]), torch.tensor([ANT, DOG, CAT, BEE, ANT, ELK]))
AFTER = Predictions(torch.tensor([ANT, ANT, CAT, ANT, DOG, DOG]), torch.tensor([ANT, DOG, DOG, ANT, DOG, DOG]))


@pytest.fixture
def setting(several: Path) -> SettingRuns:
    """The FedLoRA run of one seed, with six test images of our own."""
    [run] = collect(several / "runs" / "fedlora-seed0").runs
    nothing = torch.zeros(6, dtype=torch.long)
    made = ImagePredictions(torch.tensor(LABELS), nothing, nothing - 1, BEFORE, AFTER)
    [found] = settings_of([replace(run, predictions=made)])
    return found


def test_images_that_became_right_or_wrong(setting: SettingRuns) -> None:
    """Among its half, image 1 and the second dog became right, the bee became wrong."""
    [method] = setting.methods
    predictions = method.runs[0].predictions
    assert predictions is not None
    corrected, broken = corrected_and_broken(predictions)
    assert corrected.tolist() == [False, True, False, False, False, True]
    assert broken.tolist() == [False, False, False, True, False, False]
    table = changed_images(setting)
    assert table is not None
    [(_, cells)] = table.rows
    assert [cell.text for cell in cells] == ["2", "1", "6"]


def test_confused_pairs(setting: SettingRuns) -> None:
    """Among all names, 2 of 3 ants are taken for dogs after training and 1 before; the only bee for an ant.

    Of so few images, 100 % would say more than there is: the cells have counts.
    """
    found = confused_pairs(setting.methods[0])
    assert found == [Pair("ant", "base", "dog", "novel", 1, 2, 3), Pair("bee", "base", "ant", "base", 0, 1, 1)]
    assert [[cell.text for cell in pair.cells] for pair in found] == [["1 of 3", "2 of 3"], ["0 of 1", "1 of 1"]]
    many = Pair("ant", "base", "dog", "novel", 5, 10, 40)
    assert [cell.text for cell in many.cells] == ["12.5 5 of 40", "25.0 10 of 40"]


def test_by_class(setting: SettingRuns) -> None:
    """Ants: 1 of 3 right before and 2 after; the bee becomes wrong; dogs 1 of 2, then both; no cat, elk or fox."""
    table = by_class(setting)
    assert table is not None
    assert [column.text for column in table.columns] == ["images", "zero-shot", "FedLoRA + two-stage"]
    found = {label: [cell.text for cell in cells] for label, cells in table.rows}
    assert found == {
        "ant (base)": ["3", "1 of 3", "2 of 3"],
        "bee (base)": ["1", "1 of 1", "0 of 1"],
        "cat (base)": ["0", "–", "–"],
        "dog (novel)": ["2", "1 of 2", "2 of 2"],
        "elk (novel)": ["0", "–", "–"],
        "fox (novel)": ["0", "–", "–"],
    }
    assert list(found)[:2] == ["ant (base)", "bee (base)"], "the most errors first, then the order of the classes"


def test_halves(setting: SettingRuns) -> None:
    """Before, of 4 base images 2 are right, 1 has another base name, 1 a novel one; of 2 novel ones 0, 1 and 1."""
    figure = halves_figure(setting, "s0")
    assert figure is not None
    method = "FedLoRA + two-stage"
    said = dict(re.findall(r"(\w[\w+ -]*, (?:base|novel) images): ([^;]*)", figure.description))
    assert said == {
        "Zero-shot, base images": "50.0 % right, 25.0 % another name of its half, 25.0 % a name of the other half",
        f"{method}, base images": "25.0 % right, 25.0 % another name of its half, 50.0 % a name of the other half",
        "Zero-shot, novel images": "0.0 % right, 50.0 % another name of its half, 50.0 % a name of the other half",
        f"{method}, novel images": "100.0 % right, 0.0 % another name of its half, 0.0 % a name of the other half",
    }


def test_without_predictions_there_is_nothing_to_say(several: Path) -> None:
    [run] = collect(several / "runs" / "fedlora-seed0").runs
    [setting] = settings_of([replace(run, predictions=None)])
    assert halves_figure(setting, "s0") is None
    assert confused_pairs(setting.methods[0]) == []
    assert changed_images(setting) is None
    assert by_class(setting) is None
