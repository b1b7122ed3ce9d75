"""Code shared by the scripts that train a CLIP from scratch, and the parts of `pretrain_small_clip.py`."""
