"""The registry: every row of Table 4 can be read somehow, and says from where and on what terms."""

import pytest

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data.local_corpora import STAND_INS
from turbosparse.data.reading import format_of
from turbosparse.data.sources import SFT_SETS, SOURCES, source_named
from turbosparse.errors import DataError


def test_the_registry_has_table_4_and_the_corpus_of_the_300m_study():
    assert set(SOURCES) == {*TABLE_4_PERCENT, "fineweb"}
    assert len({source.paper_name for source in SOURCES.values()}) == 18
    assert all(name == source.name for name, source in SOURCES.items())


def test_every_source_is_on_the_hub_or_says_what_replaces_it():
    for source in SOURCES.values():
        assert (source.hub is None) == (source.access == "withdrawn"), source.name
        assert source.hub is not None or source.substitute is not None, source.name
        assert source.licence, source.name
    withdrawn = {source.name for source in SOURCES.values() if source.access == "withdrawn"}
    gated = {source.hub.dataset for source in SOURCES.values() if source.hub and source.access == "gated"}
    assert withdrawn == {"wanjuan-cc", "pile-openwebtext2", "redpajama-books"}
    assert gated == {"bigcode/starcoderdata"}


def test_hub_files_are_in_a_form_that_can_be_read():
    hubs = [source.hub or source.substitute.hub for source in SOURCES.values()]
    for hub in [*hubs, *(one.hub for one in SFT_SETS.values())]:
        assert hub.dataset.count("/") == 1
        assert bool(hub.filter_field) == bool(hub.filter_values)
        if not hub.url_origins:
            is_parquet = {format_of(glob) == ".parquet" for glob in hub.data_files}
            assert is_parquet == {hub.builder == "parquet"}
            assert all(format_of(glob) for glob in hub.data_files)


def test_no_two_sources_of_the_pile_have_the_same_subset():
    pile = [s.hub.filter_values for s in SOURCES.values() if s.hub and s.hub.filter_field]
    subsets = [subset for values in pile for subset in values]
    assert len(pile) == 3
    assert len(subsets) == len(set(subsets))


def test_every_row_of_table_4_has_a_stand_in_of_its_own():
    stand_ins = [SOURCES[name].stand_in for name in TABLE_4_PERCENT]
    assert set(stand_ins) == set(STAND_INS)
    assert len(set(stand_ins)) == 17
    assert SOURCES["fineweb"].stand_in == SOURCES["wanjuan-cc"].stand_in


def test_both_instruction_sets_are_registered():
    assert {one.hub.dataset: one.columns for one in SFT_SETS.values()} == {
        "microsoft/orca-math-word-problems-200k": ("question", "answer"),
        "jondurbin/bagel-v0.5": ("conversations",),
    }


def test_an_unknown_source_is_refused_with_the_known_names():
    with pytest.raises(DataError, match=r"the-pile.*wanjuan-cc"):
        source_named("the-pile")
