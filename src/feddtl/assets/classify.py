"""Classify images with classifier.onnx. Needs onnxruntime, numpy and Pillow, and no torch.

python classify.py picture.jpg other.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def pixel_values(image: Image.Image) -> NDArray[np.float32]:
    """(3, H, W) float32 of one image: upright, resized, cropped in the middle, normalised by channel."""
    steps = json.loads((HERE / "preprocessor_config.json").read_text(encoding="utf-8"))
    image = ImageOps.exif_transpose(image).convert("RGB")
    width, height = image.size
    if side := steps["size"].get("shortest_edge"):
        longer = int(side * max(image.size) / min(image.size))
        resized = (side, longer) if width <= height else (longer, side)
    else:
        resized = (steps["size"]["width"], steps["size"]["height"])
    image = image.resize(resized, Image.Resampling(steps["resample"]))
    crop = (steps["crop_size"]["width"], steps["crop_size"]["height"])
    left, top = (image.width - crop[0]) // 2, (image.height - crop[1]) // 2
    image = image.crop((left, top, left + crop[0], top + crop[1]))
    values: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(round(1 / steps["rescale_factor"]))
    values = (values - np.float32(steps["image_mean"])) / np.float32(steps["image_std"])
    return values.transpose(2, 0, 1)


def classify(paths: list[str]) -> NDArray[np.float32]:
    """(N, C) probabilities of N image files; the columns are `class_names` of classes.json."""
    session = onnxruntime.InferenceSession(HERE / "classifier.onnx", providers=["CPUExecutionProvider"])
    images = np.stack([pixel_values(Image.open(path)) for path in paths])
    probabilities: NDArray[np.float32] = session.run(None, {"pixel_values": images})[0]
    return probabilities


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    names = json.loads((HERE / "classes.json").read_text(encoding="utf-8"))["class_names"]
    for path, row in zip(sys.argv[1:], classify(sys.argv[1:]), strict=True):
        print(f"{path}\t{names[row.argmax()]}\t{row.max():.4f}")
