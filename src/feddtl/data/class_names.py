"""Class names suitable for a prompt, for data sets whose own names are not.

Tiny-ImageNet's are shortened from the synonym lists of its `words.txt`, EuroSAT's and Caltech-101's follow
CoOp (arXiv:2109.01134).
"""

from __future__ import annotations

from pathlib import Path

EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "herbaceous vegetation land",
    "Highway": "highway or road",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "river",
    "SeaLake": "sea or lake",
}

CALTECH101 = {
    "airplanes": "airplane",
    "faces": "face",
    "leopards": "leopard",
    "motorbikes": "motorbike",
    "water lilly": "water lily",
}

CALTECH256 = {"t shirt": "t-shirt", "yo yo": "yo-yo", "tower pisa": "leaning tower of Pisa"}

# The ten classes that federated work on DomainNet uses (FedBN, arXiv:2102.07623), as the paper lists them.
DOMAINNET_TEN = (
    "bird",
    "feather",
    "headphones",
    "ice cream",
    "teapot",
    "tiger",
    "whale",
    "windmill",
    "wine glass",
    "zebra",
)

_ROWS = Path(__file__).with_name("tiny_imagenet.tsv").read_text(encoding="utf-8").splitlines()
TINY_IMAGENET = dict(row.split("\t") for row in _ROWS if not row.startswith("#"))
