"""Parcels over Flower: no other part of feddtl imports flwr.

The server sends one message per client and round and receives one, with metrics and scores in it.

| module | content |
|---|---|
| `apps` | Flower's ServerApp and ClientApp around feddtl's functions |
| `fleet` | the clients of a run as nodes of a federation: broadcasts, replies, quorum |
| `nodes` | which client a node is, and whether it can participate |
| `grid` | requests to SuperLink, retried when it fails, and waiting for replies |
| `records` | parcels as Flower's records |
"""
