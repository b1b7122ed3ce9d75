"""The server's part of a round: updates into one, then what the method makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feddtl.aggregators.base import client_drift
from feddtl.messages import Aggregate, ServerState, Update
from feddtl.methods.base import Method, NextState
from feddtl.transforms.base import Aggregation
from feddtl.transforms.chain import Chain


@dataclass(frozen=True)
class Aggregated(NextState):
    """Result of an aggregation.

    Attributes:
        shares: By client, how much it counted, if that depends on what the others sent; else empty.
    """

    shares: Mapping[int, float] = field(default_factory=dict)


def server_step(
    method: Method, state: ServerState, updates: Sequence[Update], chain: Chain | None = None, number: int | None = None
) -> Aggregated:
    """The next state, with `client_drift` among its metrics where there are two updates or more.

    Args:
        method: The method, whose settings name the aggregator.
        state: When the round began.
        updates: Decoded, sorted by client; one or more.
        chain: The transforms that the updates passed; None: none.
        number: Of this aggregation in the run, from 1; None: that of the round.
    """
    if not updates[0].weights:  # a method that trains nothing has nothing to aggregate
        reached = method.next_state(state, Aggregate({}), updates)
        return Aggregated(reached.state, reached.metrics)
    aggregator = method.aggregator()
    aggregation = Aggregation(len(updates), state.round + 1 if number is None else number, method.task.seed)
    combined = aggregator.combine(updates)
    tensors = (chain or Chain()).after_aggregation(combined.tensors, aggregation)
    reached = method.next_state(state, Aggregate(tensors, combined.shares), updates)
    if len(updates) == 1:  # it is the aggregate
        return Aggregated(reached.state, reached.metrics)
    metrics = {**reached.metrics, "client_drift": client_drift(aggregator, updates, tensors)}
    shares = {u.client: round(share, 4) for u, share in zip(updates, combined.shares, strict=True)}
    return Aggregated(reached.state, metrics, shares if aggregator.compares_clients else {})
