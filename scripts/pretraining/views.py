"""Random views of small images, a whole batch at once on any device.

Every view depends on 15 numbers between 0 and 1 drawn on the CPU, so devices differ only by rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

DRAWS = 15
LONGEST_SHIFT = 4
LARGEST_TURN = math.radians(20)
SHEAR = 0.2
SCALE = 0.2
COLOUR = 0.4
HOLE = (4, 12)
# Fractions of the images that are warped, recoloured and given a hole; half are mirrored.
WARPED, COLOURED, PIERCED = 0.5, 0.6, 0.5


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted, mirrored, warped, recoloured and partly masked views.

    Args:
        images: (B, 3, H, W) bytes on any device.
        generator: CPU generator.

    Returns:
        (B, 3, H, W) values from 0 to 1.
    """
    draws = torch.rand(len(images), DRAWS, generator=generator).to(images.device)
    views = warp(images.float() / 255, warp_matrices(draws[:, :7], images.shape[-1]))
    return cover(colour(views, draws[:, 7:11]), draws[:, 11:15])


def warp_matrices(draws: Tensor, side: int) -> Tensor:
    """(B, 2, 3) maps from positions in the view to positions in the image, both from -1 to 1.

    Args:
        draws: (B, 7) numbers for mirroring, two shifts, whether to warp, rotation, shear and scale.
        side: Pixels along an edge; shifts are by whole pixels.
    """
    mirror, right, down, warped, turn, shear, scale = draws.unbind(1)
    warped = (warped < WARPED).float()
    turn, shear, scale = ((2 * part - 1) * warped for part in (turn, shear, scale))
    angle, zoom, sign = turn * LARGEST_TURN, 1 + scale * SCALE, torch.where(mirror < 0.5, -1.0, 1.0)
    shift_x, shift_y = ((part * (2 * LONGEST_SHIFT + 1)).floor() - LONGEST_SHIFT for part in (right, down))
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    across = torch.stack([sign * cosine, shear * SHEAR - sine, 2 * shift_x / side], dim=1)
    downwards = torch.stack([sign * sine, cosine, 2 * shift_y / side], dim=1)
    return torch.stack([across, downwards], dim=1)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """(B, 3, H, W) views of (B, 3, H, W) images under (B, 2, 3) maps; the image is mirrored at its edges."""
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def colour(images: Tensor, draws: Tensor) -> Tensor:
    """(B, 3, H, W) images with changed brightness, contrast and saturation, by (B, 4) draws."""
    factors = 1 + COLOUR * (2 * draws[:, 1:] - 1) * (draws[:, :1] < COLOURED)  # (B, 3)
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    images = images * brightness
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + contrast * (images - middle)
    grey = images.mean(dim=1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 1)


def cover(images: Tensor, draws: Tensor) -> Tensor:
    """(B, 3, H, W) images, some with a grey square of random size and position, by (B, 4) draws."""
    side = images.shape[-1]
    least, most = HOLE
    width = (least + draws[:, 1] * (most - least)) * (draws[:, 0] < PIERCED)  # (B,), 0 for no hole
    places = torch.arange(side, device=images.device) + 0.5
    inside_x, inside_y = (
        (places - side * centre[:, None]).abs() < width[:, None] / 2 for centre in (draws[:, 2], draws[:, 3])
    )  # each (B, side)
    hole = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return images.masked_fill(hole, 0.5)
