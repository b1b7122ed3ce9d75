"""Asynchronous rounds: m clients are always at work, and the server applies each update when it arrives.

m applied updates are called a round, so that budgets compare with `SynchronousRounds`: the schedule of stages, the
scores, the records and the checkpoints follow it. When an update arrives or is lost, a client that is idle,
perhaps the same one, is drawn uniformly and starts from the server's look-ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from feddtl.config import clients_at_a_time
from feddtl.evaluate import mean
from feddtl.messages import Payload, ServerState, Update, tensor_bytes
from feddtl.methods.classifier import Classifier
from feddtl.models.lora import Tensors
from feddtl.runtimes.context import RunContext, require_finite_state
from feddtl.runtimes.rounds import Progress, Rounds
from feddtl.runtimes.server_step import server_step
from feddtl.seeding import numpy_generator
from feddtl.system.asynchronous_server import ServerMomentum, look_ahead, step, step_rate
from feddtl.system.clock import Clock
from feddtl.system.in_flight import Job, UpdatesInFlight


@dataclass
class RoundLog:
    """What happened in a round so far; lists in order of arrival."""

    updates: list[Update] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    models: dict[int, Classifier] = field(default_factory=dict)
    server: list[Mapping[str, float]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0


class AsynchronousRounds(Rounds):
    """AFedPG's order: each update is a step of its own.

    A client that starts twice within a round draws the same order of batches in both. A new stage minimises something
    else, so the server's momentum starts again with it, and updates that the earlier one still sends are aggregated as
    the present one does: what it keeps frozen, FedDTL's anchor, stays as it was when it began.

    Args:
        context: Server and clients.
        clock: Virtual time and losses.
    """

    def __init__(self, context: RunContext, clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._per_round = clients_at_a_time(len(context.clients), context.experiment.participation)
        self._mean_images = sum(map(len, context.clients)) / len(context.clients)
        # How long a client takes depends on what it sends, so it is trained when it starts. A checkpoint does not
        # hold the updates of clients at work: after a resumption they are trained again, from the same state.
        self._trained: dict[int, tuple[Update, int]] = {}

    def next(self, progress: Progress) -> Progress:
        """See `Rounds.next`."""
        context, number = self._context, progress.state.round + 1
        begun = context.stopwatch.seconds()
        tensors, personal, log = progress.state.tensors, dict(progress.personal), RoundLog()
        in_flight, stage = UpdatesInFlight.from_tensors(progress.memory), context.method.stage(number)
        at_work = [*(job.client for job in in_flight.jobs), *self._starting(in_flight)]
        context.observer.round_started(number, stage, at_work)
        while len(log.updates) < self._per_round:
            for client in self._starting(in_flight):
                in_flight = self._start(client, tensors, in_flight, personal, log)
            job = in_flight.next_job()
            others = tuple(other for other in in_flight.jobs if other is not job)
            in_flight = replace(in_flight, now=job.arrival, jobs=others)
            if job.lost:
                log.lost.append(job.client)
                continue
            tensors, in_flight = self._apply(job, tensors, in_flight, personal, log)
        state = ServerState(number, tensors)
        scores, hits = context.scores(log.models, state)
        record = context.record(
            number,
            stage,
            log.updates,
            begun,
            clients=[update.client for update in log.updates],
            lost=log.lost,
            delays=log.delays,
            server={name: mean([metrics[name] for metrics in log.server]) for name in log.server[0]},
            bytes_up=log.bytes_up,
            bytes_down=log.bytes_down,
            virtual_seconds=in_flight.now,
            scores=scores,
        )
        records, own_hits = (*progress.records, record), hits if scores else progress.own_hits
        return Progress(state, personal, records, in_flight.to_tensors(), progress.before, own_hits)

    def _starting(self, in_flight: UpdatesInFlight) -> list[int]:
        """Idle clients for the places that are free."""
        busy = {job.client for job in in_flight.jobs}
        idle = [client for client in range(len(self._context.clients)) if client not in busy]
        generator = numpy_generator(self._context.experiment.seed, "asynchronous-start", in_flight.started)
        free = self._per_round - len(busy)
        return [int(client) for client in generator.choice(idle, size=free, replace=False)] if free else []

    def _start(
        self, client: int, tensors: Tensors, in_flight: UpdatesInFlight, personal: Mapping[int, Tensors], log: RoundLog
    ) -> UpdatesInFlight:
        """Send a client the look-ahead and let it train."""
        context, number = self._context, in_flight.started
        weight = context.experiment.afedpg.direction_weight
        begun = ServerState(in_flight.applied // self._per_round, look_ahead(tensors, in_flight.momentum, weight))
        with context.stopwatch.measure("exchange"):
            payload = context.method.broadcast(begun)
        transferred = tensor_bytes(payload.tensors)
        log.bytes_down += transferred
        lost = self._clock.loses(client, number)
        if not lost:
            self._trained[number] = trained = self._train(payload, client, personal)
            transferred += trained[1]
        epochs = context.experiment.training.local_epochs(self._stage(in_flight.applied))
        seconds = self._clock.seconds(client, len(context.clients[client]), epochs, transferred)
        job = Job(number, client, in_flight.applied, in_flight.now + seconds, lost, begun)
        return replace(in_flight, started=number + 1, jobs=(*in_flight.jobs, job))

    def _train(self, payload: Payload, client: int, personal: Mapping[int, Tensors]) -> tuple[Update, int]:
        """What the server gets of a client, and the bytes that it was sent in. Raises ClientError."""
        [update] = self._context.train(payload, [client], personal)
        return self._context.exchange(update, payload)

    def _apply(
        self, job: Job, tensors: Tensors, in_flight: UpdatesInFlight, personal: dict[int, Tensors], log: RoundLog
    ) -> tuple[Tensors, UpdatesInFlight]:
        """One step of the server."""
        context, config = self._context, self._context.experiment.afedpg
        trained = self._trained.pop(job.number, None)
        if trained is None:
            trained = self._train(context.method.broadcast(job.begun), job.client, personal)
        update, size = trained
        delay, stage = in_flight.applied - job.version, self._stage(in_flight.applied)
        begun = job.begun
        if self._stage(job.version) != stage:
            begun = replace(begun, round=in_flight.applied // self._per_round)
        with context.stopwatch.measure("server"):
            reached = server_step(context.method, begun, [update], context.chain, in_flight.applied + 1)
            after, momentum = step(
                tensors,
                begun.tensors,
                reached.state.tensors,
                in_flight.momentum,
                rate=step_rate(config, self._image_share(update), delay, self._per_round),
                weight=config.direction_weight,
                updates_per_round=self._per_round,
            )
        require_finite_state(ServerState(in_flight.applied // self._per_round + 1, after))
        context.observer.client_finished(job.client)
        if update.personal:
            personal[job.client] = update.personal
        log.updates.append(update)
        log.bytes_up += size
        log.delays.append(delay)
        log.server.append(reached.metrics)
        log.models[job.client] = context.method.classifier(job.begun, update)
        ended = self._stage(in_flight.applied + 1) != stage
        return after, replace(
            in_flight, applied=in_flight.applied + 1, momentum=ServerMomentum() if ended else momentum
        )

    def _image_share(self, update: Update) -> float:
        """N_k/N̄, or 1 with an aggregator in which clients count alike."""
        alike = self._context.experiment.server.aggregator == "unweighted-mean"
        return 1.0 if alike else update.num_images / self._mean_images

    def _stage(self, applied: int) -> str:
        """The stage after so many applied updates."""
        return self._context.method.stage(applied // self._per_round + 1)
