"""A byte-level BPE tokenizer trained on the corpora, or any Hugging Face tokenizer folder."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from turbosparse.errors import DataError

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer of exactly `vocab_size` entries.

    Ids 0, 1 and 2 are `<unk>`, `<s>` and `</s>`; padding uses `</s>`; encoding puts `<s>` first, as
    Mistral's tokenizer does. The same texts give the same tokenizer. Where they hold too few pairs
    to merge, entries `<extra_0>`, `<extra_1>`, … that no text encodes to fill the vocabulary (see
    `num_padding_entries`).

    Args:
        texts: what to learn the merges from.
        vocab_size: entries, special tokens and bytes included; at least 259.

    Raises:
        DataError: `vocab_size` is below the bytes and special tokens.
    """
    if vocab_size < NUM_BYTES + 3:
        raise DataError(
            "data.vocab_size", vocab_size, f"at least {NUM_BYTES + 3} (bytes and special tokens)", "raise it"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _padded(tokenizer, vocab_size)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=EOS
    )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Loads a Hugging Face tokenizer folder, sentencepiece ones too, as a fast tokenizer.

    Runs no code from the folder.

    Raises:
        DataError: not a folder, one that transformers can't read, or a tokenizer without BOS, EOS.
    """
    if not Path(folder).is_dir():
        raise DataError("tokenizer", str(folder), "an existing folder", "check the path")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the readers of tokenizer files raise whatever they meet
        raise DataError(
            "tokenizer",
            str(folder),
            f"a Hugging Face tokenizer folder that transformers can read (it says: {error})",
            "save the tokenizer there with save_pretrained",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError("tokenizer", str(folder), "a fast tokenizer", "convert it to tokenizer.json")
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise DataError(
            "tokenizer",
            str(folder),
            "a tokenizer with BOS and EOS, which mark where documents begin and end",
            "name bos_token and eos_token in its tokenizer_config.json",
        )
    return tokenizer


def num_padding_entries(tokenizer: PreTrainedTokenizerFast) -> int:
    """Returns how many entries only fill the vocabulary."""
    return sum(entry.startswith("<extra_") for entry in tokenizer.get_vocab())


def _padded(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = content["model"]["vocab"]
    for number in range(vocab_size - len(vocab)):
        vocab[f"<extra_{number}>"] = len(vocab)
    return Tokenizer.from_str(json.dumps(content))
