"""A run from its first round to its closing evaluation, wherever its clients train."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feddtl.config import Experiment, clients_at_a_time
from feddtl.errors import FeddtlError
from feddtl.evaluate import EvaluationSets, Predictions, Scores, mean, predict_test_images, score_shares, scores_of
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.observers import RunObserver
from feddtl.runtimes.asynchronous import AsynchronousRounds
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.federated import federated_of, scored_by_clients, with_counts
from feddtl.runtimes.fleet import Fleet, FleetInProcess
from feddtl.runtimes.hostile import with_hostile_labels
from feddtl.runtimes.rl_notes import rl_notes
from feddtl.runtimes.rounds import Progress, Rounds
from feddtl.runtimes.synchronous import SynchronousRounds
from feddtl.system.clock import Clock
from feddtl.system.ppo_selection import PpoSelection
from feddtl.system.selection import Selector, UniformSample
from feddtl.system.validation import Validation
from feddtl.timing import Stopwatch
from feddtl.training.client_data import ClientData
from feddtl.units import NUMBERED, ClientNames

__all__ = ["Progress", "RunObserver", "Runtime", "build_selector"]

AN_ERROR = "it stopped with an error, which whoever runs the server knows."


class Runtime:
    """Runs the rounds of a method.

    Args:
        method: The method.
        clients: Every client's data, in order of client id.
        sets: The test images.
        experiment: The settings.
        observer: Receives the events; by default, nobody does.
        stopwatch: Measures the time; a new one by default.
        validation: Validation images for FedPPO's rewards; other selections need none.
        fleet: Where the clients of synchronous rounds train; by default, in this process.
        names: What the clients are called.
    """

    def __init__(
        self,
        method: Method,
        clients: Sequence[ClientData],
        sets: EvaluationSets,
        experiment: Experiment,
        observer: RunObserver | None = None,
        stopwatch: Stopwatch | None = None,
        validation: Validation | None = None,
        fleet: Callable[[RunContext], Fleet] = FleetInProcess,
        names: ClientNames = NUMBERED,
    ) -> None:
        self._method = method
        self._sets = sets
        self._experiment = experiment
        self._stopwatch = stopwatch or Stopwatch()
        self._validation = validation
        clients = with_hostile_labels(clients, experiment, len(method.task.class_names))
        self._context = RunContext(method, clients, sets, experiment, observer or RunObserver(), self._stopwatch, names)
        self._fleet = fleet(self._context)

    def run(self, start: Progress, after_round: Callable[[Progress], None] = lambda progress: None) -> Progress:
        """Run the remaining rounds; `after_round` is where a caller saves a checkpoint."""
        progress, rounds = start, self._rounds()
        while progress.state.round < self._experiment.rounds:
            told = self.notes(progress)
            progress = rounds.next(progress)
            for note in self.notes(progress):
                if note not in told:
                    self._context.observer.note(note)
            after_round(progress)
        return progress

    def notes(self, progress: Progress) -> tuple[str, ...]:
        """What the rounds so far gave reason to say, see `rl_notes`."""
        # A client whose images are elsewhere, and not even counted here, has none.
        images = [len(client.labels) for client in self._context.clients]
        return rl_notes(self._experiment.rl, progress.records, images if all(images) else ())

    def score_own_start(self, progress: Progress) -> Progress:
        """Clients that alone have test images score the method's own start before a run from another one begins.

        Zero-shot in tables is this score, which otherwise comes with the replies of round 1.
        """
        everyone = self._context.clients_with_all_test_images
        if not (self._experiment.init_from and everyone) or scored_by_clients(progress) != [None]:
            return progress
        found = self._fleet.evaluate(self._method.broadcast(self._method.init_server()), progress)
        return with_counts(progress, found.counts, found.failures, self._context.observer, everyone)

    def close(self, progress: Progress) -> Progress:
        """The closing evaluation: all clients score the final model, unless they already have."""
        if federated_of(progress) is not None:
            return progress
        found = self._fleet.evaluate(self._method.broadcast(progress.state), progress)
        everyone = self._context.clients_with_all_test_images
        return with_counts(progress, found.counts, found.failures, self._context.observer, everyone)

    def farewell(self, error: FeddtlError) -> None:
        """Tell clients elsewhere that an error has ended the run, without what one of them alone has said."""
        self._fleet.farewell(error.for_clients or AN_ERROR)

    def predictions(self, state: ServerState) -> Predictions:
        """The global model's predictions at a state for all test images."""
        with self._stopwatch.measure("evaluation"):
            return self._context.predictions(state)

    def score_before_training(self) -> tuple[Scores, Predictions]:
        """Scores and predictions of zero-shot CLIP; `local` is its mean accuracy on the clients' shares."""
        classifier = self._method.zero_shot_classifier()
        with self._stopwatch.measure("evaluation"):
            predictions = predict_test_images(classifier, self._sets)
            local = mean(list(score_shares(predictions, self._sets).values()))
            return scores_of(predictions, self._sets, local), predictions

    def _rounds(self) -> Rounds:
        experiment, count = self._experiment, len(self._context.clients)
        clock = Clock(experiment.system, count, experiment.seed)
        if experiment.system.mode == "async":
            return AsynchronousRounds(self._context, clock)
        selector = build_selector(experiment, count)
        return SynchronousRounds(self._context, selector, clock, self._validation, self._fleet)


def build_selector(experiment: Experiment, clients: int) -> Selector:
    """The selector of an experiment with this number of clients."""
    participation, seed = experiment.participation, experiment.seed
    builders: dict[str, Callable[[], Selector]] = {
        "all": lambda: UniformSample(clients, 1.0, seed),
        "uniform": lambda: UniformSample(clients, participation, seed),
        "fedppo": lambda: PpoSelection(experiment.fedppo, clients, clients_at_a_time(clients, participation), seed),
    }
    return builders[experiment.system.selection]()
