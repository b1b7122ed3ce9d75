"""What a federation over Flower costs and survives: load, faults, hosts apart."""
