"""Federated methods, one folder each. `feddtl.methods.catalog` is the table of them; nothing here loads torch."""
