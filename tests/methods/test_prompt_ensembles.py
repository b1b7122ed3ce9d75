"""Several templates: the text of a class is the mean of its prompts' unit embeddings, whatever encodes them.

Whole rounds with several templates are in test_rounds_against_slow_rounds.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from feddtl.config import DataConfig
from feddtl.errors import ConfigError
from feddtl.methods.base import Method
from feddtl.methods.catalog import METHODS, build_method, method_class
from feddtl.methods.tables import MethodTables, settings_types

TEMPLATES = ("a photo of a {class}.", "{class}, {class}", "one of many things that are a {class}!")
NAMES = ("red panda", "cat", "great_crested_grebe")
LEARNED = [name for name in METHODS if method_class(name).learns_prompts]
AVERAGED = [name for name in METHODS if name not in LEARNED]


def with_templates(task, *templates):
    return replace(task, prompt_template="\n".join(templates))


@pytest.mark.parametrize("name", AVERAGED)
def test_text_embeddings_are_normalised_means_over_the_templates(double_federation, make_experiment, name):
    """Against a method for each template alone, with tensors as training leaves them; zero-shot against CLIPModel."""
    experiment, task = make_experiment(method=name), double_federation.task
    method = build_method(with_templates(task, *TEMPLATES), experiment)
    generator = torch.Generator().manual_seed(1)
    start = {**method.global_tensors(method.init_server()), **method.initial_personal(0)}
    tensors = {
        key: tensor.double() + 0.1 * torch.randn(tensor.shape, generator=generator) for key, tensor in start.items()
    }
    single = [build_method(with_templates(task, one), experiment) for one in TEMPLATES]
    expected = normalize(sum(normalize(one.text_features(tensors, NAMES), dim=-1) for one in single), dim=-1)
    found = normalize(method.text_features(tensors, NAMES), dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if name == "zero-shot":
        torch.testing.assert_close(found, by_transformers(task.clip), rtol=0, atol=1e-12)
    else:
        assert (found - by_transformers(task.clip)).abs().max() > 1e-3 or name == "fedclip"


def by_transformers(clip):
    """(C, e), every prompt written out and encoded alone."""
    rows = []
    for name in ("red panda", "cat", "great crested grebe"):
        mean = torch.zeros(clip.image.feature_width, dtype=torch.float64)
        for template in TEMPLATES:
            tokens = clip.tokenizer([template.format(**{"class": name})], return_tensors="pt")
            feature = clip.model.get_text_features(**tokens).pooler_output[0]
            mean += feature / feature.norm() / len(TEMPLATES)
        rows.append(mean / mean.norm())
    return torch.stack(rows).detach()


@pytest.mark.parametrize("name", ["fedlora", "pfedmma"])
def test_clients_together_have_their_own_means(double_federation, make_experiment, name):
    method: Method = build_method(with_templates(double_federation.task, *TEMPLATES), make_experiment(method=name))
    generator = torch.Generator().manual_seed(2)
    start = {**method.initial_shared(), **method.initial_personal(0)}
    clients = [
        {key: tensor.double() + 0.1 * torch.randn(tensor.shape, generator=generator) for key, tensor in start.items()}
        for _ in range(3)
    ]
    payload = method.broadcast(method.init_server())
    found = method.text_embeddings_of_clients(clients, payload)
    expected = [normalize(method.text_features(own, method.task.class_names), dim=-1) for own in clients]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_fedclip_averages_its_own_templates(federation, make_experiment):
    """And not those of the data, which zero-shot beside it still has."""
    tables = MethodTables.from_mapping({"fedclip": settings_types()["fedclip"](prompt=list(TEMPLATES))})
    method = build_method(federation.task, replace(make_experiment(method="fedclip"), methods=tables))
    other = build_method(with_templates(federation.task, *TEMPLATES), make_experiment(method="zero-shot"))
    found, expected = (one.classifier(one.init_server()).text_embeddings(NAMES) for one in (method, other))
    assert torch.equal(found, expected)
    assert (method.zero_shot_classifier().text_embeddings(NAMES) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", LEARNED)
def test_methods_with_learned_prompts_refuse_several(federation, make_experiment, name):
    """Before anything is loaded, and where a prompt is given to a finished run."""
    message = f"data.prompt has several templates, and method = '{name}' learns its own"
    for prompt in ("ensemble", TEMPLATES):
        with pytest.raises(ConfigError, match=message) as caught:
            make_experiment(method=name, data=DataConfig(prompt=prompt))
        assert "give one template" in caught.value.hint
    with pytest.raises(ConfigError, match=message):
        build_method(with_templates(federation.task, *TEMPLATES), make_experiment(method=name))


def test_which_methods_learn_their_prompts():
    assert LEARNED == ["promptfl", "fedmaple", "fedpgp", "fedmgp"]
