"""Flower's apps around functions that know nothing of Flower."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from feddtl.errors import ClientError, FeddtlError
from feddtl.runtimes.flower.records import CLIENT, ERROR, from_records, to_records
from feddtl.runtimes.node import Node, Request
from feddtl.runtimes.wire.contract import Parcel, Scalar

PARTITION, DATA, MODEL = "partition-id", "data", "model"  # keys of a node's configuration


def client_app(answer: Callable[[Request, Node, Parcel], Parcel]) -> ClientApp:
    """Flower's ClientApp around a function of request, node and message; its FeddtlErrors travel as text."""

    def handler(request: Request) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            try:
                reply = answer(request, _node(context), from_records(message.content))
            except FeddtlError as error:
                client = context.node_config.get(PARTITION)
                # Whoever runs this node sees its own output alone.
                print(f"feddtl: client {client} cannot take part in this run: {error}", file=sys.stderr, flush=True)
                reply = Parcel({}, {ERROR: str(error), **({CLIENT: client} if isinstance(client, int) else {})})
            return Message(to_records(reply), reply_to=message)

        return handle

    app = ClientApp()
    # No decorators: a check of types where flwr is not installed would take them for untyped.
    app.query()(handler("query"))
    app.train()(handler("train"))
    app.evaluate()(handler("evaluate"))
    return app


def server_app(serve: Callable[[Grid, Mapping[str, Scalar]], None]) -> ServerApp:
    """Flower's ServerApp around a function of the grid and the run configuration."""

    def main(grid: Grid, context: Context) -> None:
        serve(grid, dict(context.run_config))

    app = ServerApp()
    app.main()(main)
    return app


def _node(context: Context) -> Node:
    """A node's configuration. Raises ClientError for one that names no client."""
    config = context.node_config
    client = config.get(PARTITION)
    if type(client) is not int or client < 0:
        raise ClientError(
            f"This node's configuration has {PARTITION} = {client!r}.",
            f"Start it with --node-config '{PARTITION}=0' (its client id, from 0).",
        )
    return Node(client, str(config.get(DATA, "")), str(config.get(MODEL, "")))
