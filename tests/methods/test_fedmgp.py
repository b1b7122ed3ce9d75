"""FedMGP: features against transformers, a round against plain autograd, the choice of groups by hand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from compared import NAMES, in_float64, moved
from slow_methods import SlowFedMGP, slow_sgd_round, unit

from feddtl.errors import ConfigError
from feddtl.messages import Payload
from feddtl.methods.catalog import build_method
from feddtl.methods.fedmgp.method import diversity, draw_groups, prompts_by_group, side_by_side, similarities
from feddtl.methods.fedmgp.settings import FedMGPSettings
from feddtl.runtimes.server_step import server_step
from feddtl.seeding import torch_generator
from feddtl.tensor_groups import add_prefix

# Text and visual prompts are sent by different groups; three groups, of which two are shared.
ORDER = {"text": [2, 0, 1], "visual": [1, 2, 0]}
THREE = FedMGPSettings(groups=3, shared_groups=2, prompt_length=3)


@pytest.fixture(scope="module")
def double(federation, clip_folder):
    return in_float64(federation, clip_folder)


def slow_of(federation, settings=THREE, order=ORDER):
    return SlowFedMGP(federation.task.clip, federation.task.prompt_template, settings, order)


def build(federation, make_experiment, settings=THREE, **changes):
    return build_method(federation.task, make_experiment(method="fedmgp", fedmgp=settings, **changes))


def kept_in(order, method):
    """What a client keeps, moved, after it sent the groups that come first in `order`."""
    groups = {f"groups.{kind}": torch.tensor(own) for kind, own in order.items()}
    return {**moved(method.initial_personal(0), seed=1), **groups}


# --- features and predictions -------------------------------------------------------------------------


def test_a_prediction_is_the_mean_of_the_groups_cosines(double, make_experiment):
    method, slow = build(double, make_experiment), slow_of(double)
    tensors = {**moved(method.initial_shared()), **kept_in(ORDER, method)}
    pixels = double.pixels(0)
    images = unit(method.image_features(tensors, double.clients(method, torch.float64)[0].activations.all()))
    texts = unit(method.text_features(tensors, NAMES))
    assert images.shape == (7, 3 * 24)
    each = [slow.images_of_group(tensors, pixels, g) @ slow.text_of_group(tensors, NAMES, g).T for g in range(3)]
    torch.testing.assert_close(images @ texts.T, sum(each) / 3, rtol=0, atol=1e-9)
    assert (each[0] - each[1]).abs().max() > 1e-3


def test_the_global_model_is_the_mean_over_the_shared_groups(double, make_experiment):
    method, slow = build(double, make_experiment), slow_of(double, order={"text": [0, 1], "visual": [0, 1]})
    tensors = moved(method.initial_shared())
    images = unit(method.image_features(tensors, double.clients(method, torch.float64)[0].activations.all()))
    texts, pixels = unit(method.text_features(tensors, NAMES)), double.pixels(0)
    each = [slow.images_of_group(tensors, pixels, g) @ slow.text_of_group(tensors, NAMES, g).T for g in range(2)]
    torch.testing.assert_close(images @ texts.T, sum(each) / 2, rtol=0, atol=1e-9)


def test_the_length_of_a_groups_features_does_not_count():
    """Cosines 1 and 0 are 1/2 in the mean, although the first group's image is a hundred times as long; the vector that
    noise is added to has the groups' mean length in each part."""
    image = side_by_side(torch.tensor([[[100.0, 0.0]], [[0.0, 2.0]]]))
    text = side_by_side(torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]]))
    assert image.tolist() == [[51.0, 0.0, 0.0, 51.0]]
    assert float(unit(image) @ unit(text).T) == pytest.approx(0.5)


# --- the loss -----------------------------------------------------------------------------------------


def test_diversity_by_hand():
    """Three groups along x, y and -x: cosines 0, -1 and 0, whatever the lengths, so -1/3. Equal groups: 1."""
    features = torch.tensor([[[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]])
    assert diversity(features).tolist() == pytest.approx([-1 / 3, 1.0])


def test_the_gradient_of_diversity_turns_groups_away_from_each_other():
    """Of two unit vectors u and v it is (v - (u·v) u) for u: with v = (0.6, 0.8) and u = (1, 0) that is (0, 0.8)."""
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    diversity(features).backward()
    assert features.grad[0].tolist() == pytest.approx([0.0, 0.8])


@pytest.mark.parametrize("weight", [1.0, 5.0, 0.0])
def test_a_round_is_plain_sgd_on_the_whole_loss(double, make_experiment, weight):
    """In round 3, with what the client sent in the second; then the groups are the same and some others are sent."""
    settings = replace(THREE, diversity_weight=weight)
    experiment = make_experiment(method="fedmgp", fedmgp=settings, local={"learning_rate": 0.02})
    method, client = build_method(double.task, experiment), 1
    received, kept = moved(method.initial_shared()), kept_in(ORDER, method)
    data = double.clients(method, torch.float64)[client]
    update = method.client_update(Payload(3, add_prefix("shared", received)), data, kept)
    start = {name: t for name, t in {**received, **kept}.items() if t.is_floating_point()}
    slow = slow_of(double, settings)
    labels, names, seed = data.labels.tolist(), double.task.class_names, double.task.seed
    expected, loss = slow_sgd_round(
        slow, start, double.pixels(client), labels, names, experiment.local, seed, client, 3
    )
    assert abs(update.metrics["loss"] - loss) < 1e-6  # metrics are float32 sums
    assert ("text_term" in update.metrics) == (weight > 0)
    for kind in ("text", "visual"):
        order = update.personal[f"groups.{kind}"].tolist()
        assert sorted(order) == [0, 1, 2]
        ours = torch.cat([update.weights[kind], update.personal[f"own.{kind}"]])
        for prompts, group in zip(ours, order, strict=True):
            wanted = slow.group(expected, kind, group)
            torch.testing.assert_close(prompts, wanted, rtol=0, atol=1e-9)
            assert (wanted - slow.group(start, kind, group)).abs().max() > 1e-6
        groups = [slow.group(expected, kind, group) for group in range(3)]
        assert order[:2] == slow_choice(groups, received[kind], 1.0, torch_generator(seed, f"fedmgp/sent-{kind}", 1, 3))


def slow_choice(groups, received, temperature, generator):
    """Equations 7 and 8 in plain Python."""
    chosen = []
    for other in received:
        weights = []
        for number, own in enumerate(groups):
            a, b = own.flatten().tolist(), other.flatten().tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
            weights.append(0.0 if number in chosen else math.exp(cosine / temperature))
        probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        chosen.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return chosen


def test_accuracy_is_that_of_the_mean_logits(double, make_experiment):
    """One step at a rate that moves nothing: the metric is the model's accuracy before it."""
    local = {"learning_rate": 1e-12, "epochs": 1, "batch_size": 64}
    method = build(double, make_experiment, local=local)
    received, kept = moved(method.initial_shared(), size=1.0), kept_in(ORDER, method)
    data = double.clients(method, torch.float64)[0]
    update = method.client_update(Payload(2, add_prefix("shared", received)), data, kept)
    tensors = {**received, **kept}
    logits = unit(method.image_features(tensors, data.activations.all()))
    logits = logits @ unit(method.text_features(tensors, double.task.class_names)).T
    hits = (logits.argmax(dim=-1) == data.labels).double().mean().item()
    assert update.metrics["accuracy"] == pytest.approx(hits)


def test_one_group_has_no_diversity(federation, make_experiment):
    method = build(federation, make_experiment, FedMGPSettings(groups=1, shared_groups=1))
    update = method.client_update(method.broadcast(method.init_server()), federation.clients(method)[0], {})
    assert "text_term" not in update.metrics
    assert math.isfinite(update.metrics["loss"])


# --- which groups are sent ----------------------------------------------------------------------------


def test_similarities_by_hand():
    """Prompts of two vectors: (1, 0), (0, 1) with itself 1, with (1, 0), (0, -1) 0, with (1, 1), (1, 1) 2/√2/2."""
    prompts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    [found] = similarities(prompts, 3 * prompts[:1]).tolist()
    assert found == pytest.approx([1.0, 0.0, 1 / math.sqrt(2)])


def test_probabilities_of_the_choice_by_hand():
    """Scores log 1, log 2, log 1 for the first: chosen with 1/4, 1/2, 1/4. Scores 0 for the second: each of the others
    with 1/2. So (0, 1): 1/8, (1, 0): 1/4, and so on; 20,000 draws agree within four standard deviations."""
    scores = torch.tensor([[0.0, math.log(2.0), 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    generator, draws = torch.Generator().manual_seed(0), 20_000
    found = Counter(tuple(draw_groups(scores, generator)) for _ in range(draws))
    expected = {(0, 1): 1 / 8, (0, 2): 1 / 8, (1, 0): 1 / 4, (1, 2): 1 / 4, (2, 0): 1 / 8, (2, 1): 1 / 8}
    assert found.keys() == expected.keys()
    for pair, share in expected.items():
        assert abs(found[pair] / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_a_group_that_is_taken_is_not_drawn_again_however_likely():
    scores = torch.tensor([[0.0, 5000.0, 0.0], [-5000.0, 5000.0, -4000.0]], dtype=torch.float64)
    assert draw_groups(scores, torch.Generator().manual_seed(0)) == [1, 2]


def sent_groups(method, client, round_number, tuned, received):
    after = method.after_training(client, round_number, tuned, received)
    return [after[f"groups.{kind}"][: len(received[kind])].tolist() for kind in ("text", "visual")]


def test_at_a_low_temperature_the_groups_most_like_the_received_ones_are_sent(federation, make_experiment):
    method = build(federation, make_experiment, replace(THREE, temperature=1e-4))
    received, kept = method.initial_shared(), kept_in(ORDER, method)
    tuned = {**received, **kept}
    for number in (2, 7):
        assert sent_groups(method, 0, number, tuned, received) == [ORDER["text"][:2], ORDER["visual"][:2]]
    swapped = {kind: prompts.flip(0) for kind, prompts in received.items()}
    assert sent_groups(method, 0, 2, tuned, swapped) == [ORDER["text"][1::-1], ORDER["visual"][1::-1]]


def test_in_the_first_round_all_groups_are_equally_likely(federation, make_experiment):
    """Even at a temperature at which they would not be: of 600 clients, about 200 send each group first."""
    method = build(federation, make_experiment, replace(THREE, temperature=1e-4))
    received = method.initial_shared()
    tuned = {**received, **kept_in(ORDER, method)}
    chosen = [sent_groups(method, client, 1, tuned, received) for client in range(600)]
    for kind in (0, 1):
        assert all(160 < count < 240 for count in Counter(own[kind][0] for own in chosen).values())
    assert sum(own[0] == own[1] for own in chosen) < 150  # of six pairs, one in six would agree by chance


def test_the_choice_depends_on_seed_client_and_round_alone(federation, make_experiment):
    method = build(federation, make_experiment)
    received = method.initial_shared()
    tuned = {**received, **method.initial_personal(0)}
    choices = [[sent_groups(method, c, t, tuned, received) for c in range(10)] for t in (1, 2)]
    again = [[sent_groups(method, c, t, tuned, received) for c in range(10)] for t in (1, 2)]
    assert choices == again
    assert choices[0] != choices[1]
    assert len({str(own) for own in choices[0]}) > 1


# --- aggregation and the next round -------------------------------------------------------------------


def test_the_next_round_replaces_what_was_sent_and_nothing_else(federation, make_experiment):
    """Group 2 of the text prompts and group 1 of the visual ones take the first received ones, and so on."""
    method = build(federation, make_experiment)
    received, kept = moved(method.initial_shared()), kept_in(ORDER, method)
    for kind, order in ORDER.items():
        groups = prompts_by_group({**received, **kept}, kind)
        assert torch.equal(groups[order[0]], received[kind][0])
        assert torch.equal(groups[order[1]], received[kind][1])
        assert torch.equal(groups[order[2]], kept[f"own.{kind}"][0])


def test_the_server_averages_each_position_by_hand(federation, make_experiment):
    """The i-th prompt that was sent, whichever group it was, weighted by 7, 5 and 6 images."""
    method = build(federation, make_experiment)
    state = method.init_server()
    updates = [method.client_update(method.broadcast(state), data, {}) for data in federation.clients(method)]
    after = server_step(method, state, updates).state.tensors
    for kind in ("text", "visual"):
        for place in range(2):
            groups = [int(update.personal[f"groups.{kind}"][place]) for update in updates]
            own = [
                prompts_by_group({**update.weights, **update.personal}, kind)[group]
                for update, group in zip(updates, groups, strict=True)
            ]
            expected = (7 * own[0] + 5 * own[1] + 6 * own[2]) / 18
            torch.testing.assert_close(after[f"shared/{kind}"][place], expected, rtol=0, atol=1e-6)


def test_with_all_groups_shared_it_is_federated_averaging(federation, make_experiment):
    """Nothing is kept, and every group is averaged with itself, in the first round and later."""
    method = build(federation, make_experiment, replace(THREE, shared_groups=3))
    assert method.initial_personal(0) == {}
    tuned = moved(method.initial_shared())
    for number in (1, 2):
        assert method.after_training(0, number, tuned, method.initial_shared()) is tuned
    update = method.client_update(method.broadcast(method.init_server()), federation.clients(method)[0], {})
    assert update.personal == {}


# --- start and settings -------------------------------------------------------------------------------


def test_all_clients_start_from_the_servers_groups_and_these_from_the_words(federation, make_experiment):
    """Byte-level tokens: the first three are "a", " " and "p". Without noise the text prompts are their embeddings."""
    method = build(federation, make_experiment, replace(THREE, init_std=0.0))
    words = federation.task.clip.text.embed_words("a photo of a")[:3]
    tensors = {**method.initial_shared(), **method.initial_personal(0)}
    assert torch.equal(prompts_by_group(tensors, "text"), words.expand(3, -1, -1))
    assert not prompts_by_group(tensors, "visual").any()
    method = build(federation, make_experiment)
    own = [method.initial_personal(client) for client in (0, 1)]
    assert all(torch.equal(own[0][name], own[1][name]) for name in own[0])
    groups = prompts_by_group({**method.initial_shared(), **own[0]}, "text")
    noise = groups - words
    assert noise.std() == pytest.approx(0.02, rel=0.2)
    assert (groups[0] - groups[1]).abs().max() > 0.01


def test_prompts_longer_than_their_words_go_on_with_noise(federation, make_experiment):
    settings = FedMGPSettings(groups=2, shared_groups=1, prompt_length=5, initial_text=" ab ")
    method = build(federation, make_experiment, settings)
    [prompts] = method.initial_shared()["text"]
    words = federation.task.clip.text.embed_words("ab")
    assert len(words) == 2
    assert (prompts[:2] - words).abs().max() < 0.1
    assert 0.01 < prompts[2:].std() < 0.03


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"groups": 2, "shared_groups": 3}, "fedmgp.shared_groups = 3"),
        ({"groups": 0}, "fedmgp.groups = 0"),
        ({"shared_groups": 0}, "fedmgp.shared_groups = 0"),
        ({"temperature": 0.0}, "fedmgp.temperature = 0.0"),
        ({"diversity_weight": -1.0}, "fedmgp.diversity_weight = -1.0"),
        ({"initial_text": " "}, "fedmgp.initial_text = ' '"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named) as caught:
        FedMGPSettings(**changes)
    assert caught.value.hint.startswith("Allowed: ")


def test_more_shared_groups_than_groups_says_how_many_there_may_be():
    with pytest.raises(ConfigError) as caught:
        FedMGPSettings(groups=2, shared_groups=3)
    assert caught.value.hint == "Allowed: 1 to 2, the number of groups (fedmgp.groups)."


def test_a_pass_leaves_room_for_every_group(federation, make_experiment):
    one = build(federation, make_experiment, FedMGPSettings(groups=1, shared_groups=1)).images_per_pass
    four = build(federation, make_experiment, FedMGPSettings(groups=4)).images_per_pass
    assert four == one // 4
