"""Documents sampled from a model: an unlimited corpus of just what the model was trained to say."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from turbosparse.config.levers import SamplingConfig
from turbosparse.errors import ModelError
from turbosparse.progress import OnProgress, Progress, ignore_progress

# A batch is packed again when this share of its documents has ended: each packing copies the cache.
ENDED_RATIO = 0.25


def sample_documents(
    model: PreTrainedModel, config: SamplingConfig, on_progress: OnProgress = ignore_progress
) -> Iterator[list[int]]:
    """Yields sampled documents' token ids, without BOS and EOS, until there are `config.num_tokens`.

    The same model, settings and device give the same documents.

    Args:
        model: In eval mode; it samples where it is.
        config: Lengths, temperature, seed.
        on_progress: Hears of the tokens sampled.

    Raises:
        ModelError: The model has no BOS token, or too short a context for the longest document, or ends
            every document at once.
    """
    longest = _longest_document(model, config)
    generator = torch.Generator(model.device).manual_seed(config.seed)
    num_tokens = 0
    while num_tokens < config.num_tokens:
        documents = _sample_batch(model, config, longest, generator)
        if not any(documents):
            remedy = "give a model that writes text after BOS, or real corpora"
            raise ModelError("model", "samples of no token", "text to recover on", remedy)
        for document in documents:
            num_tokens += len(document)
            yield document
        on_progress(Progress("sample", min(num_tokens, config.num_tokens), config.num_tokens, "tokens"))


@torch.inference_mode()
def _sample_batch(
    model: PreTrainedModel, config: SamplingConfig, longest: int, generator: torch.Generator
) -> list[list[int]]:
    """Returns one batch of documents, in no particular order."""
    ends = torch.tensor(_end_tokens(model), device=model.device)
    cache = DynamicCache(config=model.config)
    last = torch.full((config.batch_size_documents, 1), model.config.bos_token_id, device=model.device)
    sampled = last.new_empty(len(last), 0)
    finished: list[list[int]] = []
    has_ended = torch.zeros(len(last), dtype=torch.bool, device=model.device)
    while sampled.shape[1] < longest - 1 and len(sampled):
        output = model(input_ids=last, past_key_values=cache, use_cache=True, logits_to_keep=1)
        last = _draw(output.logits[:, -1], config.temperature, generator)
        sampled = torch.cat([sampled, last], dim=1)
        has_ended |= torch.isin(last[:, 0], ends)
        if has_ended.float().mean() >= ENDED_RATIO:
            finished += _documents(sampled[has_ended], ends)
            going_on = (~has_ended).nonzero()[:, 0]
            cache.batch_select_indices(going_on)
            last, sampled, has_ended = last[going_on], sampled[going_on], has_ended[going_on]
    return finished + _documents(sampled, ends)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Returns one token per row of logits [documents, vocabulary]: [documents, 1], int64."""
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)


def _documents(sampled: Tensor, ends: Tensor) -> list[list[int]]:
    """Returns each row [tokens] up to its first ending token; rows without any token are left out."""
    is_end = torch.isin(sampled, ends).int()
    lengths = torch.where(is_end.any(dim=1), is_end.argmax(dim=1), sampled.shape[1]).tolist()
    rows = zip(sampled.tolist(), lengths, strict=True)
    return [row[:length] for row, length in rows if length]


def _end_tokens(model: PreTrainedModel) -> list[int]:
    eos = model.config.eos_token_id
    return [model.config.bos_token_id, *(eos if isinstance(eos, list) else [eos])]


def _longest_document(model: PreTrainedModel, config: SamplingConfig) -> int:
    context = model.config.max_position_embeddings
    longest = config.max_document_tokens or context
    if longest > context:
        remedy = "lower data.sampling.max_document_tokens"
        raise ModelError("max_position_embeddings", context, f"at least {longest} tokens", remedy)
    if model.config.bos_token_id is None or model.config.eos_token_id is None:
        expected = "tokens that begin and end a document"
        raise ModelError(
            "bos_token_id, eos_token_id",
            (model.config.bos_token_id, model.config.eos_token_id),
            expected,
            "name them in the model's config.json",
        )
    return longest
