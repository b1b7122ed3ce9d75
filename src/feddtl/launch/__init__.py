"""Servers, clients and runs on separate machines: their keys, and the Flower processes behind each command."""
