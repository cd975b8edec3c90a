"""Licences travel from sources, instructions and the original model to the card."""

import pytest

from turbosparse.artifacts import Manifest
from turbosparse.config.data import TABLE_4_PERCENT, DataConfig
from turbosparse.data.licences import corpus_licences
from turbosparse.data.sources import SOURCES
from turbosparse.export.licences import licences_section
from turbosparse.model.licence import NOT_STATED, model_licence


def manifest(kind, **metrics):
    return Manifest(
        kind=kind,
        identity="0" * 16,
        version=1,
        config={},
        parents={},
        inputs={},
        code_version="1",
        created_at="now",
        attempt="attempt-a",
        seconds=1.0,
        files={},
        metrics=metrics,
    )


@pytest.fixture
def config():
    return DataConfig(num_tokens=1_000_000, sequence_length=64, vocab_size=512, mixture=TABLE_4_PERCENT)


def test_every_source_of_the_paper_has_a_licence(config):
    found = corpus_licences(config.model_copy(update={"corpora": "hub", "substitutes": "recorded"}))
    assert set(found) == set(TABLE_4_PERCENT)
    assert found["dolma-pes2o"] == "ODC-BY 1.0"
    assert found["redpajama-books"] == SOURCES["pile-pg19"].licence, "the substitute's, which is read"
    assert all(licence != "not stated" for licence in found.values())


def test_a_source_that_the_user_put_in_the_place_of_another_brings_its_own(config):
    chosen = config.model_copy(update={"corpora": "hub", "substitutes": {"wanjuan-cc": "redpajama-wiki"}})
    assert corpus_licences(chosen)["wanjuan-cc"] == "CC BY-SA 3.0"


@pytest.mark.parametrize("kind", ["local", "folder", "sampled"])
def test_text_from_elsewhere_is_not_given_the_registrys_licence(config, kind):
    found = set(corpus_licences(config.model_copy(update={"corpora": kind})).values())
    assert len(found) == 1
    assert found.isdisjoint({source.licence for source in SOURCES.values()})


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlicense: apache-2.0\ntags: [a]\n---\n# A model"}, "apache-2.0"),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "Apache"}, "mit"),
        ({"README.md": "# A model", "LICENSE": "\n  MIT License\n\nCopyright"}, "MIT License"),
        ({"README.md": "---\nlicense: !!python/object/apply:os.getcwd []\n---\n"}, NOT_STATED),
        ({"README.md": "---\nlicense: [a, b]\n---\n"}, NOT_STATED),
        ({}, NOT_STATED),
    ],
)
def test_a_models_licence_is_what_its_folder_says(tmp_path, files, licence):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert model_licence(tmp_path) == licence


def test_the_section_names_all_that_the_model_is_made_of():
    stages = {
        "prepare": manifest(
            "prepare", token_ratio={"wiki": 0.6, "c4": 0.4}, licences={"wiki": "CC BY-SA 3.0"}
        ),
        "convert": manifest("convert", source="Mistral-7B", source_licence="a | b"),
        "instructions": manifest("instructions", stands_behind={"bagel": "jondurbin/bagel (CC-BY-NC-4.0)"}),
    }
    text = licences_section(stages)
    for row in (
        "| original model | Mistral-7B | a \\| b |",
        "| corpus | wiki | CC BY-SA 3.0 |",
        "| corpus | c4 | not recorded |",
        "| instructions | bagel | jondurbin/bagel (CC-BY-NC-4.0) |",
    ):
        assert row in text
