"""Federated fine-tuning of CLIP."""
