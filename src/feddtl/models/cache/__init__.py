"""What the frozen blocks gave for each image, kept for later runs: `ImageEncoder` in `feddtl.features` is the way in.

| module | holds |
|---|---|
| `folder` | the cache folder: contents, clearing, the cap and who goes first |
| `namespace` | one model, preprocessing, block and precision: find, claim, add |
| `claims` | which process computes which image |
| `segments`, `segment_writer` | files of rows: format, reading by position, writing in the background |
| `packed` | rows in their stored precision |
| `assembly` | where each row of a run is: in memory, on disk, or computed at each use |
"""
