"""Who holds what of a sharded model, and that the parts are those of the whole.

Most ranks here are hallucinated: torch's fake process group lets one process be any rank of any number,
for as long as nothing is communicated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from turbosparse.errors import ModelError
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.folder import load_model, save_model
from turbosparse.model.layout import on_meta, our_class
from turbosparse.train.sharding import (
    build_sharded_model,
    largest_shard_size,
    mixed_precision,
    shard_dimension,
    shard_model,
)

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
TIED = TurboSparseMistralConfig(**SHAPE, tie_word_embeddings=True)
MIXTRAL = TurboSparseMixtralConfig(**SHAPE, num_local_experts=3, num_experts_per_tok=2)
WIDER = {"vocab_size": 103, "predictor_rank": 8, "seed": 5, "device": "cpu"}


@contextmanager
def as_rank(rank: int, num_ranks: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def write_model(config, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    save_model(our_class(config)(config).to(dtype), folder)
    return folder


def local_parts(folder: Path, num_ranks: int, **options) -> list[dict[str, torch.Tensor]]:
    parts = []
    for rank in range(num_ranks):
        with as_rank(rank, num_ranks):
            model = build_sharded_model(folder, **options)
            parts.append({name: p.detach().to_local().clone() for name, p in model.named_parameters()})
    return parts


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


@pytest.mark.parametrize(("num_ranks", "rank"), [(8, 0), (16, 15), (64, 0), (64, 63), (128, 0), (512, 0)])
def test_no_rank_of_a_true_mixtral_holds_over_a_tenth_more_than_its_share(num_ranks, rank):
    config = TurboSparseMixtralConfig(predictor_rank=1_024, num_hidden_layers=2, vocab_size=32_064)
    assert (config.hidden_size, config.intermediate_size, config.num_local_experts) == (4_096, 14_336, 8)
    model = on_meta(config)
    sizes = [parameter.shape for parameter in model.parameters()]
    with as_rank(rank, num_ranks):
        shard_model(model, init_device_mesh("cpu", (num_ranks,)), mixed_precision("cuda"))
        held = sum(parameter.to_local().numel() for parameter in model.parameters())
    assert held * num_ranks <= 1.1 * sum(size.numel() for size in sizes)
    if rank == 0:  # chunks are filled from the first rank on: it holds the most
        assert held == sum(largest_shard_size(size, num_ranks) for size in sizes)


def test_a_stack_of_experts_is_cut_within_experts_only_where_that_is_more_even():
    assert shard_dimension((8, 28_672, 4_096), 8) == 0
    assert shard_dimension((8, 28_672, 4_096), 64) == 1
    assert shard_dimension((8, 1_000, 4_096), 64) == 2
    assert shard_dimension((8, 28_672, 4_096), 24) == 0  # neither 28,672 nor 4,096 can be cut in 24
    assert shard_dimension((32_002, 4_096), 64) == 0  # a few rows of padding are no reason
    assert shard_dimension((4_096,), 8_192) == 0


@pytest.mark.parametrize("config", [TIED, MIXTRAL], ids=["tied", "mixtral"])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_parts_of_all_ranks_make_the_whole(config, num_ranks, tmp_path):
    folder = write_model(config, tmp_path, torch.bfloat16)
    whole = build_sharded_model(folder, **WIDER).state_dict()
    parts = local_parts(folder, num_ranks, **WIDER)
    if config is MIXTRAL:
        stack = parts[0]["model.layers.0.mlp.experts.gate_up_proj"]
        assert tuple(stack.shape) == (3, 96 // num_ranks, 32)
    for name in parts[0]:
        dim = shard_dimension(whole[name].shape, num_ranks)
        joined = torch.cat([part[name] for part in parts], dim=dim)
        assert joined.dtype == torch.float32
        assert torch.equal(joined, whole[name]), name


def test_without_changes_the_whole_is_the_stored_model(tmp_path):
    folder = write_model(MIXTRAL, tmp_path, torch.bfloat16)
    whole = build_sharded_model(folder, seed=0, device="cpu").state_dict()
    stored = load_model(folder).state_dict()
    assert all(torch.equal(tensor.float(), whole[name]) for name, tensor in stored.items())


def test_tied_embeddings_stay_one_parameter_and_frequencies_are_computed(tmp_path):
    folder = write_model(TIED, tmp_path)
    with as_rank(1, 2):
        model = build_sharded_model(folder, seed=0, device="cpu")
        assert model.lm_head.weight is model.model.embed_tokens.weight
        expected = load_model(folder).model.rotary_emb.inv_freq
        assert torch.equal(model.model.rotary_emb.inv_freq, expected)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_a_rank_reads_its_share_of_the_bytes(tmp_path):
    config = TurboSparseMixtralConfig(
        **{**SHAPE, "hidden_size": 256, "intermediate_size": 512}, num_local_experts=3, num_experts_per_tok=2
    )
    folder = write_model(config, tmp_path)
    share = (folder / "model.safetensors").stat().st_size / 8
    with as_rank(3, 8):
        build_sharded_model(folder, seed=0, device="cpu")  # lazy imports read files too
        before = bytes_read()
        build_sharded_model(folder, seed=0, device="cpu")
        assert share <= bytes_read() - before < 1.1 * share


def test_predictors_of_another_rank_are_not_replaced(tmp_path):
    folder = write_model(TurboSparseMistralConfig(**SHAPE, predictor_rank=4), tmp_path)
    with pytest.raises(ModelError, match="predictor_rank"):
        build_sharded_model(folder, **WIDER)


def _train_as_rank(rank: int, num_ranks: int, folders: list[Path], rendezvous: str, queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_ranks)
    losses = [two_steps(build_sharded_model(folder, **WIDER), rank, num_ranks) for folder in folders]
    queue.put(losses)
    dist.destroy_process_group()


def two_steps(model, rank: int = 0, num_ranks: int = 1) -> list[float]:
    """The global loss before, after one and after two steps on four sequences."""
    tokens = torch.randint(0, 96, (4, 16), generator=torch.Generator().manual_seed(1))[rank::num_ranks]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(3):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach() / num_ranks
        if num_ranks > 1:
            dist.all_reduce(mean)
        losses.append(mean.item())
    return losses


@pytest.mark.slow  # each rank imports transformers: a quarter of a minute
def test_two_real_ranks_train_as_one_does(tmp_path):
    configs = {"tied": TIED, "mixtral": MIXTRAL}
    folders = [write_model(config, tmp_path / name, torch.bfloat16) for name, config in configs.items()]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (2, folders, str(tmp_path / "rendezvous"), queue)
    torch.multiprocessing.spawn(_train_as_rank, arguments, nprocs=2)
    together = queue.get()
    for folder, losses in zip(folders, together, strict=True):
        alone = two_steps(build_sharded_model(folder, **WIDER))
        assert losses == pytest.approx(alone, rel=1e-5)
        assert losses[2] < losses[0]
