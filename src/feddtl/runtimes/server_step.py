"""The server's part of a round: updates into one, then what the method makes of it."""

from __future__ import annotations

from collections.abc import Sequence

from feddtl.aggregators.base import client_drift
from feddtl.messages import ServerState, Update
from feddtl.methods.base import Method, NextState
from feddtl.transforms.base import Aggregation
from feddtl.transforms.chain import Chain


def server_step(
    method: Method, state: ServerState, updates: Sequence[Update], chain: Chain | None = None, number: int | None = None
) -> NextState:
    """The next state, with `client_drift` among its metrics where there are two updates or more.

    Args:
        method: The method, whose settings name the aggregator.
        state: When the round began.
        updates: Decoded, sorted by client; one or more.
        chain: The transforms that the updates passed; None: none.
        number: Of this aggregation in the run, from 1; None: that of the round.
    """
    if not updates[0].weights:  # a method that trains nothing has nothing to aggregate
        return method.next_state(state, {}, updates)
    aggregator = method.aggregator()
    aggregation = Aggregation(len(updates), state.round + 1 if number is None else number, method.task.seed)
    aggregate = (chain or Chain()).after_aggregation(aggregator.combine(updates), aggregation)
    reached = method.next_state(state, aggregate, updates)
    if len(updates) == 1:  # it is the aggregate
        return reached
    return NextState(reached.state, {**reached.metrics, "client_drift": client_drift(aggregator, updates, aggregate)})
