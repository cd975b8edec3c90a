"""Sampled text as corpora: dealt out by the mixture, named for what it is, known before it is sampled."""

import json
from itertools import pairwise

import pytest

from turbosparse.artifacts import Store
from turbosparse.config.levers import SamplingConfig
from turbosparse.data.sampled_corpora import SAMPLES_NAME, SampledCorpora, samples_spec
from turbosparse.errors import ArtifactError, DataError

MIXTURE = {"wanjuan-cc": 75.0, "github-code": 24.0, "pile-pg19": 1.0}
NUM_DOCUMENTS = 1_000


@pytest.fixture
def corpora(tmp_path) -> SampledCorpora:
    return SampledCorpora(
        samples_spec(SamplingConfig(), "model", "tokenizer"), str(tmp_path), "stories", MIXTURE
    )


@pytest.fixture
def sampled(corpora, tmp_path) -> SampledCorpora:
    def build(workspace):
        rows = (json.dumps({"text": f"document {number}"}) for number in range(NUM_DOCUMENTS))
        (workspace.folder / SAMPLES_NAME).write_text("\n".join(rows) + "\n")
        return {}

    Store(str(tmp_path)).produce(corpora.samples, build)
    return corpora


def texts_of(corpora: SampledCorpora, source: str) -> list[str]:
    (file,) = corpora.files(source)
    return list(file.read(10_000))


def test_every_document_goes_to_one_source_in_the_mixtures_proportions(sampled):
    shares = {source: texts_of(sampled, source) for source in MIXTURE}
    everything = [text for texts in shares.values() for text in texts]
    assert sorted(everything) == sorted(f"document {number}" for number in range(NUM_DOCUMENTS))
    for source, percent in MIXTURE.items():
        assert len(shares[source]) == pytest.approx(NUM_DOCUMENTS * percent / 100, abs=3)


def test_a_sources_documents_are_spread_over_the_whole(sampled):
    numbers = [int(text.split()[1]) for text in texts_of(sampled, "github-code")]
    assert max(after - before for before, after in pairwise(numbers)) < 10


def test_the_digest_is_known_before_and_follows_everything_that_decides_the_text(corpora):
    def digest(config=None, model="model", tokenizer="tokenizer", mixture=MIXTURE, root="elsewhere"):
        spec = samples_spec(config or SamplingConfig(), model, tokenizer)
        return SampledCorpora(spec, root, "another name", mixture).digest(["wanjuan-cc"])

    assert digest() == corpora.digest(["wanjuan-cc"])
    changed = [
        digest(SamplingConfig(seed=3)),
        digest(SamplingConfig(temperature=0.9)),
        digest(model="another model"),
        digest(tokenizer="another tokenizer"),
        digest(mixture={"wanjuan-cc": 50.0, "github-code": 50.0}),
    ]
    assert len({digest(), *changed}) == 6


def test_the_report_says_what_the_text_is(corpora):
    assert "sampled from stories at temperature 1.0" in corpora.describe(MIXTURE)["github-code"]
    assert corpora.substitutes(["wanjuan-cc"]) == {
        "wanjuan-cc": "text sampled from stories instead of Wanjuan-CC"
    }


def test_reading_before_sampling_and_sources_outside_the_mixture_are_refused(corpora):
    with pytest.raises(ArtifactError, match="samples/"):
        texts_of(corpora, "wanjuan-cc")
    with pytest.raises(DataError, match="fineweb"):
        corpora.files("fineweb")
