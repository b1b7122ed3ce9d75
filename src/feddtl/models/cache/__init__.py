"""Activations of the frozen blocks by image, stored for later runs. `feddtl.features.ImageEncoder` uses it.

| module | contents |
|---|---|
| `folder` | the cache folder: contents, clearing, the cap and eviction |
| `namespace` | one model, preprocessing, block and precision: find, claim, add |
| `claims` | which process computes which image |
| `segments`, `segment_writer` | files of rows: format, reading by offset, writing in the background |
| `packed` | rows in their stored precision |
| `assembly` | where each row of a table is: in memory, on disk, or computed at each use |
"""
