"""What travels between server and clients, and the checks that everything received must pass. No network in here.

A parcel is named arrays in a fixed order, scalars and metrics. Its scalars name the schema, the weights of the CLIP,
the class list and the round, so that two sides that mean different things refuse each other instead of averaging them.
Floating tensors travel as float32 or float16, whole numbers as int64.

| module | content |
|---|---|
| `contract` | the parcel, and what both sides must have in common |
| `messages` | broadcasts, replies, hit counts and numbers of images: packed, and checked when they arrive |
| `tensors` | tensors as arrays, and the checks of their names, shapes and values |
| `values` | the checks of numbers |
"""
