"""What the scripts that train a CLIP from scratch have in common, and the parts of `pretrain_small_clip.py`."""
