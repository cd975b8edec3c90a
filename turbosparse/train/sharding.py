"""A model over many ranks with FSDP2: who holds what, and how each rank comes by its part.

Composer can shard too, but only along dimension 0: of a stack of 8 experts, 8 of 64 ranks would hold
everything. So `fully_shard` is called here, and Composer is given a model that is sharded already.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from transformers import GenerationConfig, PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.model.convert import add_vocabulary, fresh_predictor, widened_rows, with_predictors
from turbosparse.model.folder import cast_weights, load_model, open_folder, restore_buffers
from turbosparse.model.layout import OurConfig, on_meta
from turbosparse.model.shards import StoredTensor, read_tensor, slice_tensor

PADDING_LIMIT = 1.05
"""Along a later dimension FSDP2 copies the parameter once more at each gather: for a real gain only."""


def build_sharded_model(
    folder: str | Path,
    *,
    vocab_size: int | None = None,
    predictor_rank: int | list[int] | None = None,
    seed: int,
    device: torch.device | str,
) -> PreTrainedModel:
    """Returns the folder's model on `device`, fp32, over all ranks; every rank calls this.

    Each rank reads its own part of the weights only. With one rank, or without torch.distributed,
    nothing is sharded. The values do not depend on the number of ranks.

    Args:
        folder: Any folder that `load_model` loads.
        vocab_size: Widens the vocabulary as `add_vocabulary` does.
        predictor_rank: Adds predictors as `with_predictors` does, where the folder has none.
        seed: Of the predictors' initial weights.
        device: This rank's own.

    Raises:
        ModelError: As `load_model`, or the folder has predictors of another rank.
    """
    config, tensors = open_folder(folder)
    _widen(config, vocab_size, predictor_rank)
    config.dtype = torch.float32
    device = torch.device(device)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return _load_whole(folder, config, seed).to(device).eval()
    model = on_meta(config)
    if config.tie_word_embeddings:
        model.tie_weights()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    shard_model(model, mesh, mixed_precision(device.type))
    model.to_empty(device=device)
    load_shards(model, tensors, seed)
    _restore_generation_config(model, Path(folder))
    return model.eval()


def mixed_precision(device_type: str) -> MixedPrecisionPolicy:
    """Returns how layers compute: on a GPU in bf16 from fp32 weights, gradients summed in fp32."""
    if device_type == "cuda":
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


def shard_model(model: PreTrainedModel, mesh: DeviceMesh, precision: MixedPrecisionPolicy) -> None:
    """Shards each decoder layer, then what is left, over the ranks of `mesh`, in place."""

    def placement(parameter: nn.Parameter) -> Shard:
        return Shard(shard_dimension(parameter.shape, mesh.size()))

    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=precision, shard_placement_fn=placement)


def shard_dimension(shape: Sequence[int], num_ranks: int) -> int:
    """Returns the dimension along which a parameter is cut.

    That is the first, unless the largest part would exceed an even share by more than PADDING_LIMIT
    and a later one can be cut evenly, which FSDP2 asks of those.
    """
    even = [dim for dim in range(1, len(shape)) if shape[dim] % num_ranks == 0]
    is_wasteful = -(-shape[0] // num_ranks) * num_ranks > PADDING_LIMIT * shape[0]
    return even[0] if is_wasteful and even else 0


def largest_shard_size(shape: Sequence[int], num_ranks: int) -> int:
    """Returns how many elements of a parameter the rank with the largest part holds."""
    dim = shard_dimension(shape, num_ranks)
    return -(-shape[dim] // num_ranks) * torch.Size(shape).numel() // shape[dim]


@torch.no_grad()
def load_shards(model: PreTrainedModel, tensors: dict[str, StoredTensor], seed: int) -> None:
    """Fills this rank's part of a sharded model, reading little else.

    A widened embedding is read whole, since its new rows are the mean of the others; a predictor
    that is not stored is made whole. Neither stays in memory.

    Args:
        model: Sharded and materialised.
        tensors: What `open_folder` found.
        seed: Of the predictors' initial weights.
    """
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        local, (dim, start) = parameter.to_local(), _part_start(parameter)
        part = (dim, start, start + local.shape[dim])
        local.copy_(_read_part(name, parameter.shape, part, tensors.get(name), model.config, seed))
    restore_buffers(model)


def _part_start(parameter: DTensor) -> tuple[int, int]:
    """Returns the dimension along which a parameter is cut, and where this rank's part begins."""
    (placement,), mesh = parameter.placements, parameter.device_mesh
    assert isinstance(placement, Shard)
    length = parameter.shape[placement.dim]
    return placement.dim, min(-(-length // mesh.size()) * mesh.get_local_rank(), length)


def _read_part(
    name: str,
    shape: torch.Size,
    part: tuple[int, int, int],
    stored: StoredTensor | None,
    config: OurConfig,
    seed: int,
) -> Tensor:
    dim, start, end = part
    if stored is None:
        return fresh_predictor(name, shape, config, seed).narrow(dim, start, end - start)
    if stored.shape == tuple(shape):
        return read_tensor(slice_tensor(stored, dim, start, end))
    return widened_rows(read_tensor(stored).float(), shape[0]).narrow(dim, start, end - start)


def _load_whole(folder: str | Path, config: OurConfig, seed: int) -> PreTrainedModel:
    model = cast_weights(load_model(folder), torch.float32)
    model.config.dtype = config.dtype
    if config.vocab_size != model.config.vocab_size:
        add_vocabulary(model, config.vocab_size)
    if config.predictor_rank is not None and model.config.predictor_rank is None:
        model = with_predictors(model, config.predictor_rank, seed)
    return model


def _widen(config: OurConfig, vocab_size: int | None, predictor_rank: int | list[int] | None) -> None:
    if vocab_size is not None:
        config.vocab_size = vocab_size
    if predictor_rank is None:
        return
    if config.predictor_rank not in (None, predictor_rank):
        expected = f"none, or those of rank {predictor_rank}"
        raise ModelError("predictor_rank", config.predictor_rank, expected, "give the model before tuning")
    config.predictor_rank = predictor_rank


def _restore_generation_config(model: PreTrainedModel, folder: Path) -> None:
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
