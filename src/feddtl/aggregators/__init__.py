"""Aggregators: the updates of a round into one. `feddtl.aggregators.catalog` is the table of them."""
