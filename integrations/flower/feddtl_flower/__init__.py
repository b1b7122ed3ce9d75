"""FedDTL as a Flower app."""
