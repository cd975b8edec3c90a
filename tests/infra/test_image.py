"""The image: exact versions, nobody is root, nothing secret in a layer."""

import re
import shutil
import subprocess
import tomllib

import pytest
from documents import INFRA, is_exact

from turbosparse.masking import holds_secret, names_secret

DOCKERFILE = INFRA / "image" / "Dockerfile"
ROOT = INFRA.parent


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, joined to one line each."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def test_the_base_is_one_exact_image(instructions):
    defaults = dict(words.split("=", 1) for kind, words in instructions if kind == "ARG")
    assert is_exact(defaults["PYTHON_IMAGE"])
    stages = [words.split(" AS ") for kind, words in instructions if kind == "FROM"]
    names = {name for _, name in stages}
    assert {"cpu", "cuda"} <= names
    assert {base for base, _ in stages} - names == {"${PYTHON_IMAGE}"}


def test_what_is_installed_has_a_version(instructions):
    installs = [words for kind, words in instructions if kind == "RUN" and "pip install" in words]
    for words in installs:
        packages = re.findall(r"(?<=\s)(?!-)\S*[a-z]\S*", words.partition("pip install")[2])
        own = [package for package in packages if package not in ("cpu", '".[cluster]"')]
        assert all("==" in package for package in own), own


def test_the_last_user_of_every_target_is_not_root(instructions):
    users: dict[str, str] = {}
    stage = ""
    for kind, words in instructions:
        if kind == "FROM":
            base, _, stage = words.partition(" AS ")
            users[stage] = users.get(base, "root")
        elif kind == "USER":
            users[stage] = words
    for target in ("cpu", "cuda"):
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[target]), "by number: a cluster can check it"


def test_no_layer_holds_a_secret_or_runs_what_it_downloads(instructions):
    for kind, words in instructions:
        if kind in ("ARG", "ENV"):
            names = [word.partition("=")[0] for word in words.split()]
            assert not [name for name in names if names_secret(name)]
        assert not holds_secret(words)
        assert kind != "ADD", "it fetches and unpacks"
        assert not re.search(r"(curl|wget)[^|]*\|", words)
        if "apt-get install" in words:
            assert "--no-install-recommends" in words and "rm -rf /var/lib/apt/lists/*" in words


def test_the_build_sees_nothing_but_what_it_copies(instructions):
    ignored = (INFRA / "image" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source
        for kind, words in instructions
        if kind == "COPY" and "--from" not in words
        for source in words.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied), copied


def test_the_image_holds_what_the_project_needs(instructions):
    """The wheel's packages, and the extra with which flows run on a cluster."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = " ".join(words for kind, words in instructions if kind == "COPY")
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert package in copied.split()
    assert "cluster" in project["project"]["optional-dependencies"]
    python = next(words for kind, words in instructions if kind == "ARG").partition("python:")[2]
    low, high = re.findall(r"\d+\.\d+", project["project"]["requires-python"])
    assert (
        tuple(map(int, low.split(".")))
        <= tuple(map(int, python.split(".")[:2]))
        < tuple(map(int, high.split(".")))
    )


@pytest.mark.slow
def test_the_versions_resolve_under_the_overrides(tmp_path):
    """What the build runs, without installing: `uv pip` must heed pyproject.toml as `uv sync` does."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    command = ["uv", "pip", "install", "--dry-run", "--python-version", "3.12", "--target", tmp_path]
    done = subprocess.run([*command, ".[cluster]"], cwd=ROOT, capture_output=True, text=True, check=False)
    if "error sending request" in done.stderr:
        pytest.skip("the package index can't be reached")
    assert done.returncode == 0, done.stderr
    assert " + prefect-kubernetes==" in done.stderr
