"""What hostile clients do in an experiment, to measure a defence. `feddtl.attacks.catalog` is the table of them."""
