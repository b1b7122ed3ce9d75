"""Embeddings as files: .npz for NumPy, or .parquet for tables and vector databases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from feddtl.errors import ConfigError
from feddtl.storage import new_file

FORMATS = (".npz", ".parquet")
Parts = Iterable[tuple[Sequence[str], Tensor]]


def require_format(path: Path) -> None:
    """Raise ConfigError for a file whose ending is none of `FORMATS`."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} is no file of embeddings by its ending.", f"End it in {' or '.join(FORMATS)}.")


def write_embeddings(path: Path, column: str, parts: Parts, width: int) -> int:
    """Write embeddings beside what they are of; returns their number.

    A parquet file is written part by part. An .npz file, whose header has the number of rows, is put together in
    memory: 4 bytes for each number.

    Args:
        path: New file, or one to replace; see `require_format`. It appears when it is whole.
        column: Name of the texts beside the embeddings.
        parts: Some texts and their embeddings (n, e) at a time.
        width: e.

    Raises:
        RunError: The file cannot be written.
    """
    require_format(path)
    with new_file(path) as file:
        if path.suffix.lower() == ".npz":
            return _write_npz(file, column, parts, width)
        return _write_parquet(file, column, parts, width)


def _write_npz(file: BinaryIO, column: str, parts: Parts, width: int) -> int:
    texts: list[str] = []
    rows = [torch.empty(0, width)]
    for some, embeddings in parts:
        texts += some
        rows.append(embeddings)
    # An array of texts, not of objects, so that it is read without unpickling.
    arrays: dict[str, Any] = {"embeddings": torch.cat(rows).numpy(), column: np.array(texts, dtype=np.str_)}
    np.savez(file, **arrays)
    return len(texts)


def _write_parquet(file: BinaryIO, column: str, parts: Parts, width: int) -> int:
    import pyarrow
    import pyarrow.parquet

    vector = pyarrow.list_(pyarrow.float32(), width)
    schema = pyarrow.schema([(column, pyarrow.string()), ("embedding", vector)])
    count = 0
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for some, embeddings in parts:
            values = pyarrow.array(embeddings.flatten().numpy(), pyarrow.float32())
            columns = [
                pyarrow.array(some, pyarrow.string()),
                pyarrow.FixedSizeListArray.from_arrays(values, type=vector),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))
            count += len(some)
    return count
