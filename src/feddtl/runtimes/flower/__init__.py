"""Parcels over Flower: nothing else of feddtl imports flwr.

The server sends one message per client and round and gets one back, with metrics and scores in it.

| module | holds |
|---|---|
| `apps` | Flower's ServerApp and ClientApp around functions of ours |
| `fleet` | the clients of a run as nodes of a federation: broadcasts, replies, quorum |
| `nodes` | which client a node is, and whether it can take part |
| `grid` | requests to SuperLink, made again where it fails, and waiting for replies |
| `records` | parcels as Flower's records |
"""
