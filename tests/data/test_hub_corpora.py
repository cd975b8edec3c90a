"""The hub: access settled before any request, files in a fair order, rows filtered."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data import hub_corpora
from turbosparse.data.corpora import open_corpora
from turbosparse.data.hub_corpora import HubCorpora
from turbosparse.data.hub_files import NUM_PROBED_ROWS, HubFile
from turbosparse.data.sources import SOURCES, HubFiles
from turbosparse.errors import DataError

LIMIT = 10_000_000
COMMIT = "c" * 40


def write_rows(file: Path, texts: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


@pytest.fixture
def no_hub(monkeypatch):
    """Fails where the hub is asked anything."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for name in ("HfApi", "HfFileSystem", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", lambda *_, **__: pytest.fail("asked the hub"))


def test_every_source_without_access_is_named_before_any_request(no_hub):
    corpora = open_corpora("hub", None, substitutes="none")
    with pytest.raises(DataError) as caught:
        corpora.digest(TABLE_4_PERCENT)
    message = str(caught.value)
    refused = [name for name in SOURCES if f"for {name} " in message]
    assert refused == [name for name, source in SOURCES.items() if source.access != "open"]
    for advice in (
        "hf auth login",
        "data.substitutes=recorded",
        "data.corpora=folder",
        "HuggingFaceFW/fineweb",
    ):
        assert advice in message
    with pytest.raises(DataError, match="starcoderdata"):
        corpora.files("starcode-java")


def test_a_token_opens_what_is_gated(no_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert "starcoderdata" in HubCorpora("none").describe(["starcode-java"])["starcode-java"]


def test_substitutes_are_chosen_and_described(no_hub):
    recorded = HubCorpora("recorded")
    assert recorded.substitutes(["pile-arxiv", "wanjuan-cc"]).keys() == {"wanjuan-cc"}
    assert "instead of Wanjuan-CC" in recorded.describe(["wanjuan-cc"])["wanjuan-cc"]
    named = HubCorpora({"wanjuan-cc": "open-web-math", "redpajama-books": "recorded"})
    assert "open-web-math/open-web-math" in named.substitutes(["wanjuan-cc"])["wanjuan-cc"]
    assert "emozilla/pg19" in named.describe(["redpajama-books"])["redpajama-books"]
    with pytest.raises(DataError, match="pile-openwebtext2"):
        named.describe(["wanjuan-cc", "pile-openwebtext2"])
    with pytest.raises(DataError, match="starcoderdata"):
        HubCorpora({"github-code": "starcode-java"}).describe(["github-code"])


@pytest.mark.parametrize(
    "substitutes",
    [
        {"pile-arxiv": "recorded"},
        {"wanjuan-cc": "redpajama-books"},
        {"wanjuan-cc": "common-crawl"},
        {"web": "recorded"},
    ],
)
def test_substitutes_that_do_not_exist_are_refused(no_hub, substitutes):
    with pytest.raises(DataError):
        open_corpora("hub", None, substitutes)


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    class Unreachable:
        def dataset_info(self, *_, **__):
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    with pytest.raises(DataError, match=r"peS2o.*data\.corpora=local"):
        HubCorpora().digest(["dolma-pes2o"])


def test_a_hub_digest_follows_commit_filter_and_files(monkeypatch):
    found = {"commit": "a", "files": ["x.json.gz", "y.json.gz"]}
    monkeypatch.setattr(hub_corpora, "_look_up_commit", lambda hub: found["commit"])
    monkeypatch.setattr(hub_corpora, "_list_uris", lambda hub, commit: list(found["files"]))
    base = HubCorpora().digest(["pile-arxiv"])
    assert HubCorpora().digest(["pile-arxiv"]) == base
    assert HubCorpora().files("pile-arxiv")[0].digest != HubCorpora().files("pile-philpapers")[0].digest
    found["commit"] = "b"
    changed = HubCorpora().digest(["pile-arxiv"])
    found["files"].pop()
    assert len({base, changed, HubCorpora().digest(["pile-arxiv"])}) == 3
    found["files"].clear()
    with pytest.raises(DataError, match="the data set has changed"):
        HubCorpora().files("pile-arxiv")


def test_files_come_in_an_order_that_neither_names_nor_commits_decide(monkeypatch):
    names = [f"train-{number:05}.parquet" for number in range(200)]
    monkeypatch.setattr(hub_corpora, "_look_up_commit", lambda hub: "a")
    orders = []
    for commit in "ab":
        uris = [f"hf://datasets/x/y@{commit}/data/{name}" for name in names]
        monkeypatch.setattr(hub_corpora, "_list_uris", lambda hub, _, uris=uris: uris)
        orders.append([file.uri.rpartition("/")[2] for file in HubCorpora().files("open-web-math")])
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == names
    first = [names.index(name) for name in orders[0][:40]]
    assert 60 < sum(first) / len(first) < 140, "the first files are of the whole range"


FILTERED = HubFiles(
    "owner/name", "json", (), filter_field="meta.pile_set_name", filter_values=("ArXiv", "PubMed")
)


def test_rows_of_other_sources_are_skipped_and_bad_ones_named(tmp_path):
    rows = [
        {"text": "a", "meta": {"pile_set_name": "ArXiv"}},
        {"text": "b", "meta": {"pile_set_name": "Github"}},
        {"text": "c"},
        {"text": "d", "meta": {"pile_set_name": "PubMed", "other": [1]}, "more": 1},
        {"text": 5, "meta": {"pile_set_name": "ArXiv"}},
    ]
    file = tmp_path / "00.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\nno JSON")
    read = list(HubFile("pile-arxiv", str(file), FILTERED, COMMIT).read(LIMIT))
    assert read[:2] == ["a", "d"]
    assert [problem.reason for problem in read[2:]] == ["text not a string", "not JSON"]


@pytest.mark.parametrize("hub", [HubFiles("owner/name", "json", (), text_field="content"), FILTERED])
@pytest.mark.parametrize("num_rows", [3, NUM_PROBED_ROWS + 500])
def test_a_data_set_without_the_recorded_columns_has_changed(tmp_path, hub, num_rows):
    file = tmp_path / "a.jsonl"
    write_rows(file, ["x"] * num_rows)
    with pytest.raises(DataError, match=r"owner/name.*the data set has changed") as caught:
        list(HubFile("x", str(file), hub, COMMIT).read(LIMIT))
    assert f"{min(num_rows, NUM_PROBED_ROWS)} rows" in str(caught.value)


class HubServer(BaseHTTPRequestHandler):
    """As much of the hub's protocol as listing and reading data sets takes."""

    root: Path

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if found := re.fullmatch(r"/api/datasets/(\w+/\w+)/revision/\w+", path):
            self.reply(json.dumps({"id": found[1], "sha": COMMIT, "siblings": [], "tags": []}).encode())
        elif found := re.fullmatch(rf"/api/datasets/(\w+/\w+)/tree/{COMMIT}/?(.*)", path):
            self.reply(
                json.dumps(self.listed(found[1], found[2], "recursive=true" in query.lower())).encode()
            )
        elif found := re.fullmatch(rf"/datasets/(\w+/\w+)/resolve/{COMMIT}/(.+)", path):
            self.reply((self.root / found[1] / found[2]).read_bytes())
        else:
            self.reply(b"{}", status=404)

    do_HEAD = do_GET

    def listed(self, dataset: str, folder: str, recursive: bool) -> list[dict[str, object]]:
        root = self.root / dataset
        found = sorted((root / folder).rglob("*") if recursive else (root / folder).iterdir())
        return [
            {
                "path": str(path.relative_to(root)),
                "type": "directory" if path.is_dir() else "file",
                "size": path.stat().st_size,
                "oid": "0" * 40,
            }
            for path in found
        ]

    def reply(self, content: bytes, status: int = 200) -> None:
        ranged = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        total = len(content)
        if ranged:
            content, status = content[int(ranged[1]) : int(ranged[2]) + 1], 206
        self.send_response(status)
        if ranged:
            self.send_header(
                "Content-Range", f"bytes {ranged[1]}-{int(ranged[1]) + len(content) - 1}/{total}"
            )
        for name, value in (
            ("ETag", '"1"'),
            ("X-Repo-Commit", COMMIT),
            ("Content-Length", str(len(content))),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub_server(tmp_path) -> Iterator[str]:
    """A hub with one data set of each form; returns its address."""
    handler = type("Handler", (HubServer,), {"root": tmp_path / "hub"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_port}"
    for folder in ("lines/train", "tables/data", "listed/urls"):
        (tmp_path / "hub" / "owner" / folder).mkdir(parents=True)
    owner = tmp_path / "hub" / "owner"
    for number in range(2):
        with pa.CompressedOutputStream(str(owner / f"lines/train/{number}.jsonl.zst"), "zstd") as stream:
            stream.write(json.dumps({"text": f"line {number}"}).encode())
    pq.write_table(pa.table({"content": ["row 1", "row 2"], "id": [1, 2]}), owner / "tables/data/0.parquet")
    write_rows(owner / "listed/wiki.jsonl", ["article"])
    url = f"{address}/datasets/owner/listed/resolve/{COMMIT}/wiki.jsonl"
    (owner / "listed/urls/wikipedia.txt").write_text(f"{url}\n")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_is_listed_and_read_over_its_protocol(hub_server, tmp_path):
    script = """
import json, pickle, sys
from turbosparse.data.hub_corpora import HubCorpora
from turbosparse.data.sources import SOURCES, HubFiles
from dataclasses import replace

hubs = {
    "pile-arxiv": HubFiles("owner/lines", "json", ("train/*.jsonl.zst",)),
    "open-web-math": HubFiles("owner/tables", "parquet", ("data/*.parquet",), text_field="content"),
    "redpajama-wiki": HubFiles("owner/listed", "json", ("urls/wikipedia.txt",), url_origins=(sys.argv[1],)),
}
SOURCES.update({name: replace(SOURCES[name], hub=hub) for name, hub in hubs.items()})
corpora = HubCorpora()
files = {name: pickle.loads(pickle.dumps(corpora.files(name))) for name in hubs}
print(json.dumps({name: [text for file in files[name] for text in file.read(1000)] for name in hubs}))
"""
    environment = {**os.environ, "HF_ENDPOINT": hub_server, "HF_HOME": str(tmp_path / "home")}
    environment |= {"TURBOSPARSE_ALLOWED_URIS": f"hf://datasets {hub_server}"}
    environment.pop("HF_HUB_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-c", script, hub_server],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    read = json.loads(done.stdout)
    assert sorted(read.pop("pile-arxiv")) == ["line 0", "line 1"]
    assert read == {"open-web-math": ["row 1", "row 2"], "redpajama-wiki": ["article"]}
