"""Safetensors files as ranges of bytes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from turbosparse.artifacts.tensor_files import INDEX_FILE, SINGLE_FILE
from turbosparse.errors import ModelError
from turbosparse.model.shards import (
    equal_bytes,
    find_tensors,
    join_tensors,
    read_tensor,
    split_tensor,
    write_shards,
)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 5, generator=generator).bfloat16(),
        "b": torch.randn(7, generator=generator),
        "c": torch.randn(4, 6, generator=generator).half(),
        "d": torch.randn(2, 3, 4, generator=generator, dtype=torch.float64),
    }


@pytest.fixture
def stored(tensors, tmp_path):
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / SINGLE_FILE)
    return find_tensors(tmp_path / "source")


def test_tensors_of_every_dtype_are_read_as_safetensors_reads_them(stored, tensors):
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = read_tensor(stored[name])
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_shards_are_bounded_indexed_and_read_by_safetensors(stored, tensors, tmp_path):
    """The largest tensor has 192 bytes: alone it may exceed the bound of 100, together none may."""
    write_shards({name: stored[name] for name in "abcd"}, tmp_path, shard_bytes=100)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == 30 + 28 + 48 + 192
    assert list(index["weight_map"]) == list("abcd")
    for path in tmp_path.glob("*.safetensors"):
        content = load_file(path)
        assert content.keys() == {name for name, file in index["weight_map"].items() if file == path.name}
        assert sum(tensor.nbytes for tensor in content.values()) <= 100 or len(content) == 1
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in content.items())
    assert {path.name for path in tmp_path.glob("*.safetensors")} == set(index["weight_map"].values())
    assert sorted(index["weight_map"].values())[0] == "model-00001-of-00003.safetensors"


def test_what_fits_is_one_file_without_an_index(stored, tensors, tmp_path):
    write_shards(stored, tmp_path)
    assert not (tmp_path / INDEX_FILE).exists()
    content = load_file(tmp_path / SINGLE_FILE)
    assert all(torch.equal(content[name], tensor) for name, tensor in tensors.items())


def test_tensors_of_mixed_dtypes_lie_at_multiples_of_their_element_size(stored, tensors, tmp_path):
    write_shards({name: stored[name] for name in "abcd"}, tmp_path)
    for name, tensor in find_tensors(tmp_path).items():
        assert tensor.spans[0].start % tensors[name].element_size() == 0


def test_splitting_undoes_joining_across_the_borders_of_spans(tensors, tmp_path):
    parts = {f"p{n}": torch.randn(size, 2) for n, size in enumerate((1, 4, 2, 5))}
    save_file(parts, tmp_path / SINGLE_FILE)
    stored = find_tensors(tmp_path)
    joined = join_tensors([stored[name] for name in parts], (12, 2))
    whole = torch.cat(list(parts.values()))
    assert torch.equal(read_tensor(joined), whole)
    sizes = [3, 3, 1, 5]
    again = split_tensor(joined, [(size, 2) for size in sizes])
    for part, expected in zip(again, whole.split(sizes), strict=True):
        assert torch.equal(read_tensor(part), expected)
    assert [len(part.spans) for part in again] == [2, 2, 1, 1]


def test_one_differing_bit_makes_tensors_unequal(tmp_path):
    """The last of several pieces counts too: a tensor here is larger than the copying buffer."""
    one = torch.zeros(5 * 1024**2, dtype=torch.uint8).view(torch.bfloat16)
    other = one.clone()
    other[-1] = 1
    save_file({"one": one, "same": one.clone(), "other": other}, tmp_path / SINGLE_FILE)
    stored = find_tensors(tmp_path)
    assert equal_bytes(stored["one"], stored["same"])
    assert not equal_bytes(stored["one"], stored["other"])


def test_an_index_that_leads_elsewhere_is_refused(tensors, tmp_path):
    save_file(tensors, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ModelError, match=r"files beside the index"):
        find_tensors(folder)


def test_a_shard_that_the_index_names_but_is_not_there_is_named(tensors, tmp_path):
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors.*whole safetensors file"):
        find_tensors(tmp_path)


def test_a_tensor_in_two_files_is_refused(tensors, tmp_path):
    for name in ("one.safetensors", "two.safetensors"):
        save_file(tensors, tmp_path / name)
    (tmp_path / INDEX_FILE).write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    with pytest.raises(ModelError, match="each tensor once"):
        find_tensors(tmp_path)


def test_quantised_dtypes_are_refused_by_name(tmp_path):
    save_file({"w": torch.zeros(4, dtype=torch.float8_e4m3fn)}, tmp_path / SINGLE_FILE)
    with pytest.raises(ModelError, match=r"dtype: 'F8_E4M3'.* w as"):
        find_tensors(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_not_read_short(stored, tmp_path):
    path = tmp_path / "source" / SINGLE_FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="whole safetensors file"):
        write_shards(stored, tmp_path)
