"""Which licences stand behind a corpus: for its manifest, and for the card of every model made of it."""

from collections.abc import Mapping

from turbosparse.config.data import DataConfig
from turbosparse.data.sources import SOURCES, source_named

OF_OTHERS = {
    "local": "the installed packages' own",
    "folder": "not recorded: the files' owner knows",
    "sampled": "the original model's",
}


def corpus_licences(config: DataConfig) -> dict[str, str]:
    """Returns the licence of what stands behind each source of the mixture, as publicly known.

    Raises:
        DataError: An unknown source.
    """
    if config.corpora != "hub":
        return dict.fromkeys(config.mixture, OF_OTHERS[config.corpora])
    named = config.substitutes if isinstance(config.substitutes, Mapping) else {}
    return {source: _of_hub(source, named.get(source)) for source in config.mixture}


def _of_hub(name: str, chosen: str | None) -> str:
    if chosen is not None and chosen in SOURCES:
        return SOURCES[chosen].licence
    source = source_named(name)
    is_replaced = chosen == "recorded" or source.hub is None
    return source.substitute.licence if is_replaced and source.substitute is not None else source.licence
