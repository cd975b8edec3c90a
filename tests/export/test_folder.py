"""`turbosparse export`: every format, refusals before anything is written, uploads at the end."""

import json

import fsspec
import pytest
from typer.testing import CliRunner

from turbosparse.cli import app
from turbosparse.errors import ArtifactError, ConfigError, ModelError
from turbosparse.export.folder import ExportRequest, export_folder
from turbosparse.export.powerinfer import PowerInferOptions


@pytest.mark.parametrize(
    ("format", "file"),
    [
        ("hf", "config.json"),
        ("powerinfer", "model.powerinfer.gguf"),
        ("powerinfer-dense", "model.dense.gguf"),
        ("powerinfer-predictors", "predictors/model_1.pt"),
    ],
)
def test_every_format_is_written_and_reported(make_folder, format, file, tmp_path):
    report = export_folder(ExportRequest(make_folder(), tmp_path / "out", format))
    assert (tmp_path / "out" / file).is_file()
    assert (report["model"], report["format"]) == (str(tmp_path / "out"), format)
    if format.startswith("powerinfer"):
        assert report["warnings"]


@pytest.mark.parametrize(
    "request_fields",
    [
        {"format": "hf", "powerinfer": PowerInferOptions(statistics="text")},
        {"format": "powerinfer-dense", "powerinfer": PowerInferOptions(statistics="text", vram_gib=1.0)},
        {"format": "powerinfer", "layout": "released"},
        {"format": "hf", "upload": "somewhere"},
    ],
)
def test_options_that_would_be_ignored_are_refused(make_folder, request_fields, tmp_path):
    with pytest.raises(ConfigError):
        export_folder(ExportRequest(make_folder(), tmp_path / "out", **request_fields))
    assert not (tmp_path / "out").exists()


def test_a_mixture_of_experts_is_refused_for_powerinfer(make_folder, tmp_path):
    for format in ("powerinfer", "powerinfer-dense", "powerinfer-predictors"):
        source = make_folder(format, architecture="mixtral")
        with pytest.raises(ModelError, match="mixture of experts"):
            export_folder(ExportRequest(source, tmp_path / "out", format))
        assert not (tmp_path / "out").exists()


def test_the_folder_is_uploaded_whole(make_folder, tmp_path):
    place = f"memory://{tmp_path.name}/export"
    report = export_folder(ExportRequest(make_folder(), tmp_path / "out", upload=place))
    fs, path = fsspec.core.url_to_fs(place)
    assert report["uploaded"] == place
    assert {name.rpartition("/")[2] for name in fs.find(path)} == {
        file.name for file in (tmp_path / "out").iterdir()
    }
    with pytest.raises(ArtifactError, match="empty or new place"):
        export_folder(ExportRequest(make_folder("again"), tmp_path / "other", upload=place))
    assert not (tmp_path / "other").exists()


def test_the_command_passes_its_options_on(make_folder, tmp_path):
    source, text = make_folder(intermediate_size=512), tmp_path / "text.txt"
    text.write_text("some text to learn from\n" * 20)
    command = ["export", str(source), str(tmp_path / "out"), "--format", "powerinfer", "--quantize", "q4_0"]
    command += ["--statistics", str(text), "--num-tokens", "100", "--vram-gib", "0.001"]
    done = CliRunner().invoke(app, [*command, "--context-tokens", "16", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["quantization"] == "q4_0"
    assert report["gpu_split"]["context_tokens"] == 16
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "activation",
        "model.powerinfer.gguf",
        "model.powerinfer.gguf.generated.gpuidx",
    }


def test_the_command_refuses_another_quantisation(make_folder, tmp_path):
    command = ["export", str(make_folder()), str(tmp_path / "out"), "--format", "powerinfer"]
    done = CliRunner().invoke(app, [*command, "--quantize", "q8_0"])
    assert isinstance(done.exception, ModelError)
    assert not (tmp_path / "out").exists()
