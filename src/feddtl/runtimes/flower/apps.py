"""Flower's apps around functions that do not depend on Flower."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from feddtl.errors import ClassMismatchError, ClientError, FeddtlError
from feddtl.marked_lines import MARK, say
from feddtl.runtimes.flower.records import (
    BEFORE_TRAINING,
    CLIENT,
    ERROR,
    FAREWELL,
    MISMATCH,
    SCALARS,
    from_records,
    to_records,
)
from feddtl.runtimes.node import Node, Request
from feddtl.runtimes.wire.contract import Parcel, Scalar, plain

PARTITION, DATA, MODEL, METHOD = "partition-id", "data", "model", "method"  # keys of a node's configuration


def client_app(answer: Callable[[Request, Node, Parcel], Parcel]) -> ClientApp:
    """Flower's ClientApp around a function of request, node and message; its FeddtlErrors travel as text."""

    def handler(request: Request) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            if (last := _farewell(message)) is not None:
                say(f"run {message.metadata.run_id} has ended: {last}")
                return Message(to_records(Parcel({}, {})), reply_to=message)
            _announce(request, message, context)
            try:
                with _traceback_is_shown():
                    reply = answer(request, _node(context), from_records(message.content))
            except FeddtlError as error:
                client = context.node_config.get(PARTITION)
                # Whoever runs this node sees only this process's output.
                say(f"client {client} cannot participate in this run: {error}")
                mismatch = isinstance(error, ClassMismatchError)
                who = {CLIENT: client} if isinstance(client, int) else {}
                reply = Parcel({}, {ERROR: str(error), MISMATCH: mismatch, **who})
            else:
                if request == "train":
                    say(f"run {message.metadata.run_id}, round {message.metadata.group_id}: sending the update")
                if request == "evaluate" and not _is_first(message):
                    say(f"run {message.metadata.run_id} is finished; the client waits for the next run")
            return Message(to_records(reply), reply_to=message)

        return handle

    app = ClientApp()
    # No decorators: where flwr is not installed, a type checker would see untyped ones.
    app.query()(handler("query"))
    app.train()(handler("train"))
    app.evaluate()(handler("evaluate"))
    return app


def server_app(serve: Callable[[Grid, Mapping[str, Scalar]], None]) -> ServerApp:
    """Flower's ServerApp around a function of the grid and the run configuration."""

    def main(grid: Grid, context: Context) -> None:
        try:
            with _traceback_is_shown():
                serve(grid, dict(context.run_config))
        except FeddtlError as error:
            error.args = (f"{MARK}{error}",)  # `feddtl submit` looks for the mark in Flower's report of the error
            raise

    app = ServerApp()
    app.main()(main)
    return app


@contextmanager
def _traceback_is_shown() -> Iterator[None]:
    """Print the traceback of an error that no user can solve, since Flower's log is usually hidden."""
    try:
        yield
    except FeddtlError:
        raise
    except Exception:
        say(traceback.format_exc())
        raise


def _farewell(message: Message) -> str | None:
    """Why the run has ended, if the message says so."""
    scalars = message.content.config_records.get(SCALARS, {})
    return plain(scalars[FAREWELL]) if FAREWELL in scalars else None


def _is_first(message: Message) -> bool:
    """Whether a message belongs to no round, because none has begun."""
    return str(message.metadata.group_id) == BEFORE_TRAINING


def _announce(request: Request, message: Message, context: Context) -> None:
    """Print what the node is about to do, for whoever runs it."""
    run, number = f"run {message.metadata.run_id}", message.metadata.group_id
    say(
        {
            "query": f"{run} asks whether this client, node {context.node_id}, can take part",
            "train": f"{run}, round {number}: training",
            "evaluate": f"{run}: scoring {'the model before training' if _is_first(message) else 'the final model'}",
        }[request]
    )


def _node(context: Context) -> Node:
    """A node's configuration. Raises ClientError for one that names no client."""
    config = context.node_config
    client = config.get(PARTITION)
    if type(client) is not int or client < 0:
        raise ClientError(
            f"This node's configuration has {PARTITION} = {client!r}.",
            f"Start it with --node-config '{PARTITION}=0' (its client id, from 0).",
        )
    return Node(client, str(config.get(DATA, "")), str(config.get(MODEL, "")), str(config.get(METHOD, "")))
