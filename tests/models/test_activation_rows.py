"""Rows wherever they are kept: the same numbers, chosen without copies, and int8 within half a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feddtl.errors import ModelError
from feddtl.models.activations import Activations, DeviceMemory, JoinedRows, RecomputedRows, joined
from feddtl.models.cache.packed import Packed, RowLayout, pack

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def random_rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


# --- precisions --------------------------------------------------------------------------------------


def test_int8_against_a_loop_over_tokens():
    rows = random_rows(4, 5, 16)
    packed = pack(rows, "int8")
    assert packed.values.dtype == torch.int8
    for image in range(4):
        for token in range(5):
            values = rows[image, token].numpy()
            scale = np.float32(np.abs(values).max()) / np.float32(127)
            assert packed.scales[image, token] == scale
            kept = np.rint(values / scale)
            np.testing.assert_array_equal(packed.values[image, token].numpy(), kept)
            np.testing.assert_array_equal(packed.floats()[image, token].numpy(), kept.astype(np.float32) * scale)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_int8_is_wrong_by_half_a_step_at_most(factor):
    rows = random_rows(20, 7, 32) * factor
    packed = pack(rows, "int8")
    error = (packed.floats() - rows).abs()
    assert (error <= packed.scales[..., None] / 2 * (1 + 1e-5)).all()
    assert error.max() > 0


def test_int8_keeps_zero_tokens_and_the_largest_value():
    rows = torch.zeros(1, 3, 4)
    rows[0, 1] = torch.tensor([0.0, -8.0, 8.0, 4.0])
    floats = pack(rows, "int8").floats()
    assert torch.equal(floats[0, 0], torch.zeros(4))
    assert floats[0, 1, 1] == -8
    assert floats[0, 1, 2] == 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_floats_are_a_cast(precision):
    rows = random_rows(3, 5, 8)
    assert torch.equal(pack(rows, precision).floats(), rows.to(getattr(torch, precision)))


def test_a_value_too_large_for_float16_is_refused_with_its_size():
    rows = random_rows(2, 3, 4)
    rows[1, 2, 3] = -70000
    with pytest.raises(ModelError, match=r"is 7e\+04; the maximum of float16 is 6\.55e\+04") as error:
        pack(rows, "float16")
    assert "compute.activations = 'bfloat16' or 'float32'" in error.value.hint
    for precision in ("float32", "bfloat16", "int8"):
        assert pack(rows, precision).floats()[1, 2, 3] < -69000


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(precision, value):
    rows = random_rows(2, 3, 4)
    rows[0, 1, 2] = value
    with pytest.raises(ModelError, match="produced a NaN or infinite value"):
        pack(rows, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(5, 8), (7,)])
def test_layout_counts_the_bytes_of_a_row(precision, shape):
    layout = RowLayout(shape, precision)
    packed = pack(random_rows(3, *shape), precision)
    assert packed.nbytes == 3 * layout.nbytes
    empty = layout.empty(3)
    assert [part.shape for part in empty.parts] == [part.shape for part in packed.parts]
    assert [part.dtype for part in empty.parts] == [part.dtype for part in packed.parts]


# --- choosing ----------------------------------------------------------------------------------------


def sources(rows):
    """The same rows as every kind of source that needs no disk."""
    half = len(rows) // 2
    parts = [Packed(rows[:half]), RecomputedRows(len(rows) - half, lambda at: rows[half:][at])]
    return {
        "in memory": Packed(rows),
        "computed": RecomputedRows(len(rows), lambda at: rows[at]),
        "joined": JoinedRows(parts),
        "with empty parts": JoinedRows([Packed(rows[:0]), *parts, Packed(torch.empty(0, 0))]),
    }


@pytest.mark.parametrize("kind", ["in memory", "computed", "joined", "with empty parts"])
def test_rows_come_in_the_order_they_are_asked_for(kind):
    rows = random_rows(9, 3, 4)
    activations = Activations(sources(rows)[kind])
    assert len(activations) == 9
    for wanted in ([0], [8, 0, 4, 4, 5], [3, 2], list(range(9)), []):
        assert torch.equal(activations.rows(torch.tensor(wanted, dtype=torch.long)), rows[wanted])
    assert torch.equal(activations.all(), rows)


@pytest.mark.parametrize("kind", ["in memory", "computed", "joined", "with empty parts"])
def test_choices_compose(kind):
    rows = random_rows(9, 3, 4)
    chosen = Activations(sources(rows)[kind], torch.tensor([7, 1, 1, 5])).select(torch.tensor([3, 0, 2]))
    assert len(chosen) == 3
    assert torch.equal(chosen.all(), rows[[5, 7, 1]])
    assert torch.equal(chosen.rows(torch.tensor([2, 0])), rows[[1, 5]])


def test_choosing_asks_for_no_row():
    def refuse(positions):
        raise AssertionError("a row was asked for")

    activations = Activations(RecomputedRows(1000, refuse))
    assert len(joined([activations.select(torch.arange(10)), activations])) == 1010


def test_an_index_may_name_a_row_twice():
    rows = random_rows(3, 2)
    assert torch.equal(Activations(Packed(rows), torch.tensor([2, 0, 2])).all(), rows[[2, 0, 2]])


def test_int8_rows_come_as_float32():
    packed = pack(random_rows(4, 3, 8), "int8")
    rows = Activations(packed).rows(torch.tensor([3, 1]))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, packed.floats()[[3, 1]])


def test_joined_activations_are_one_after_another():
    first, second = random_rows(3, 2, 4), random_rows(4, 2, 4, seed=1)
    one, two = Activations.of(first), Activations.of(second)
    nothing = Activations.of(torch.empty(0, 0))
    parts = [one.select(torch.tensor([2, 0])), nothing, two, one]
    assert torch.equal(joined(parts).all(), torch.cat([first[[2, 0]], second, first]))
    assert torch.equal(joined(parts).rows(torch.tensor([8, 1, 3])), torch.stack([first[2], first[0], second[1]]))
    assert torch.equal(joined([nothing, two]).all(), second)
    assert len(joined([nothing, nothing])) == len(joined([])) == 0


def test_joined_parts_of_one_source_share_it():
    whole = Activations.of(random_rows(6, 2))
    parts = [whole.select(torch.tensor([4, 5])), whole.select(torch.tensor([0]))]
    assert joined(parts)._source is whole._source


def test_on_a_cpu_activations_stay_where_they_are():
    activations = Activations.of(random_rows(3, 2))
    assert DeviceMemory(torch.device("cpu")).load(activations) is activations


def devices(activations):
    sources = getattr(activations._source, "sources", [activations._source])
    return [source.values.device.type if isinstance(source, Packed) else "elsewhere" for source in sources]


def test_all_tables_share_one_half_of_the_free_memory():
    """120 bytes are free, so 60 are given: 6 rows of 2 float32 take 48, one more 8 of the 12 that are left.

    The meta device stands for a GPU: it keeps shapes and no numbers."""
    memory = DeviceMemory(torch.device("meta"), free=120)
    tables = [Activations.of(random_rows(count, 2)) for count in (6, 2, 1, 1)]
    loaded = [memory.load(table) for table in tables]
    assert [devices(table) for table in loaded] == [["meta"], ["cpu"], ["meta"], ["cpu"]]
    assert loaded[1] is tables[1]


def test_rows_beyond_the_memory_hold_up_no_others():
    """A row that is computed at each use, between two tables in memory: only the tables go to the device."""
    rows = random_rows(5, 2)
    source = JoinedRows([Packed(rows[:2]), RecomputedRows(1, lambda at: rows[2 + at]), Packed(rows[3:])])
    table = Activations(source).select(torch.tensor([4, 2, 0]))
    loaded = DeviceMemory(torch.device("meta"), free=1000).load(table)
    assert devices(loaded) == ["meta", "elsewhere", "meta"]
    assert torch.equal(loaded._index, table._index)
    assert torch.equal(table.all(), rows[[4, 2, 0]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu_rows_of_both_memories_come_together(precision):
    device = torch.device("cuda", 0)
    packed = pack(random_rows(6, 3, 4), precision)
    late = RecomputedRows(1, lambda at: packed.floats()[5 + at])
    table = Activations(JoinedRows([packed.pick(slice(5)), late])).select(torch.tensor([5, 2, 2]))
    found = DeviceMemory(device).load(table).rows(torch.tensor([1, 0]))
    assert found.device == device
    assert torch.equal(found.cpu(), packed.floats()[[2, 5]])
