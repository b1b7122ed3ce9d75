"""CLIP (Radford et al. 2021): `towers` contains its arithmetic, `loading` reads its files."""

from feddtl.backbones.clip.loading import Clip, ClipModules, load_clip
from feddtl.backbones.clip.towers import ClipImageTower, ClipTextTower

__all__ = ["Clip", "ClipImageTower", "ClipModules", "ClipTextTower", "load_clip"]
