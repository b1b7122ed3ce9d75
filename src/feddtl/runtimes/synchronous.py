"""Synchronous rounds: the server waits for all clients of a round, then aggregates what arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feddtl.aggregators.catalog import AGGREGATORS
from feddtl.messages import Payload, ServerState, Update, tensor_bytes
from feddtl.methods.classifier import Classifier
from feddtl.notes import Warned
from feddtl.runtimes.context import RunContext, require_finite_state
from feddtl.runtimes.federated import with_counts
from feddtl.runtimes.fleet import Arrivals, Fleet
from feddtl.runtimes.rounds import Progress, Rounds
from feddtl.runtimes.server_step import Aggregated, server_step
from feddtl.system.clock import Clock
from feddtl.system.selection import Selector, Visit
from feddtl.system.validation import Validation


class SynchronousRounds(Rounds):
    """The order of federated averaging: choose, broadcast, train, aggregate.

    A client whose update is lost has dropped out: it keeps nothing of the round, and the server waits as long as its
    training would have taken. A round in which every update is lost leaves the server's state unchanged.

    Args:
        context: Server and clients.
        selector: Chooses the clients.
        clock: Virtual time and losses.
        validation: What a learning selector measures its rewards on.
        fleet: Where the clients train.
    """

    def __init__(
        self, context: RunContext, selector: Selector, clock: Clock, validation: Validation | None, fleet: Fleet
    ) -> None:
        self._context = context
        self._selector = selector
        self._clock = clock
        self._validation = validation
        self._fleet = fleet

    def next(self, progress: Progress) -> Progress:
        """See `Rounds.next`."""
        context, state, number = self._context, progress.state, progress.state.round + 1
        begun = context.stopwatch.seconds()
        chosen = self._selector.choose(progress.memory, number)
        lost = [client for client in chosen if self._clock.loses(client, number)]
        stage = context.method.stage(number)
        context.observer.round_started(number, stage, chosen)
        with context.stopwatch.measure("exchange"):
            payload = context.method.broadcast(state)
        arrived = self._fleet.train(payload, [client for client in chosen if client not in lost], progress)
        counted = self._counted(progress, arrived)
        updates = arrived.updates
        self._say_weaker(number, len(chosen), len(updates))
        reached = self._next_state(state, updates)
        here = [update for update in updates if update.client not in arrived.scores]
        models = {update.client: context.method.classifier(state, update) for update in here}
        scores, hits = context.scores(models, reached.state, arrived.own, arrived.scores)
        visits = self._visits(state, models)
        seconds = self._duration(stage, payload, chosen, arrived.sizes)
        memory = self._selector.observe(progress.memory, number, visits)
        record = context.record(
            number,
            stage,
            updates,
            begun,
            clients=chosen,
            lost=sorted([*lost, *arrived.failures]),
            failures=dict(arrived.failures),
            server=dict(reached.metrics),
            shares=reached.shares,
            bytes_up=sum(arrived.sizes.values()),
            bytes_down=tensor_bytes(payload.tensors) * len(chosen),
            virtual_seconds=progress.virtual_seconds + seconds,
            scores=scores,
        )
        personal = {**progress.personal, **{update.client: update.personal for update in updates if update.personal}}
        own_hits = hits if scores else progress.own_hits
        return Progress(reached.state, personal, (*counted.records, record), memory, counted.before, own_hits)

    def _counted(self, progress: Progress, arrived: Arrivals) -> Progress:
        """The progress with what this round's clients say of the model that they received."""
        context, everyone = self._context, self._context.clients_with_all_test_images
        asked = bool(everyone) and context.experiment.is_scored(progress.state.round)
        return with_counts(progress, arrived.counts, arrived.failures if asked else {}, context.observer, everyone)

    def _say_weaker(self, number: int, chosen: int, left: int) -> None:
        """Warn if lost clients leave too few for an aggregator to withstand as many hostile ones as is set."""
        server = self._context.experiment.server
        if not server.trims or not 0 < left < chosen:
            return
        planned, dropped = server.trimmed(chosen), server.trimmed(left)
        needed = 2 * dropped + AGGREGATORS[server.aggregator].spare
        if dropped == planned and left >= needed:
            return
        why = f"needs {needed} to drop {dropped}" if dropped == planned else f"drops {dropped} instead of {planned}"
        self._context.observer.note(
            Warned(
                f"Round {number}: with {left} of {chosen} clients, server.aggregator = '{server.aggregator}' {why}, "
                "so it withstands fewer hostile ones."
            )
        )

    def _next_state(self, state: ServerState, updates: Sequence[Update]) -> Aggregated:
        if not updates:
            return Aggregated(ServerState(state.round + 1, state.tensors))
        with self._context.stopwatch.measure("server"):
            reached = server_step(self._context.method, state, updates, self._context.chain)
        require_finite_state(reached.state)
        return reached

    def _visits(self, state: ServerState, models: dict[int, Classifier]) -> dict[int, Visit]:
        """Measurements for a selector that learns; none for any other."""
        if not self._selector.learns or not models:
            return {}
        if self._validation is None:
            raise ValueError("a selector that learns needs validation images")
        with self._context.stopwatch.measure("evaluation"):
            return self._validation.visits(self._context.method.classifier(state), models)

    def _duration(self, stage: str, payload: Payload, chosen: Sequence[int], sent: Mapping[int, int]) -> float:
        """Virtual seconds of the slowest of the chosen clients; a lost update is not sent."""
        down, epochs = tensor_bytes(payload.tensors), self._context.experiment.training.local_epochs(stage)
        images = {client: self._fleet.train_images(client) for client in chosen}
        return max(self._clock.seconds(c, images[c], epochs, down + sent.get(c, 0)) for c in chosen)
