"""The kernels are built once, whole or not at all, and a machine without a compiler hears why."""

import os
import stat

import pytest

from turbosparse.inference import build
from turbosparse.inference.build import BuildError, build_kernels, find_compiler


@pytest.fixture
def compiler(tmp_path):
    """A compiler that writes its arguments to the file after -o, slowly, and counts its calls."""
    script = tmp_path / "cxx"
    script.write_text(
        '#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\n'
        f'echo call >> {tmp_path}/calls\necho half > "$2"\nsleep 0.3\necho whole > "$2"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_a_library_is_built_once(tmp_path, compiler):
    first = build_kernels(tmp_path / "cache", compiler)
    assert build_kernels(tmp_path / "cache", compiler) == first
    assert (tmp_path / "calls").read_text().splitlines() == ["call"]


def test_two_processes_at_once_build_it_once(tmp_path, compiler):
    children = []
    for _ in range(2):
        if not (child := os.fork()):
            try:
                library = build_kernels(tmp_path / "cache", compiler)
                os._exit(0 if library.read_text() == "whole\n" else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert (tmp_path / "calls").read_text().splitlines() == ["call"]


def test_each_instruction_set_and_source_has_its_own_library(tmp_path, compiler, monkeypatch):
    folders = {build_kernels(tmp_path / "cache", compiler).parent}
    monkeypatch.setattr(build, "instruction_set", lambda: "AVX2")
    folders.add(build_kernels(tmp_path / "cache", compiler).parent)
    changed = tmp_path / "kernels"
    changed.mkdir()
    for source in build.SOURCES.iterdir():
        (changed / source.name).write_text(source.read_text() + "\n// changed\n")
    monkeypatch.setattr(build, "SOURCES", changed)
    folders.add(build_kernels(tmp_path / "cache", compiler).parent)
    assert len(folders) == 3


def test_a_failing_compiler_leaves_nothing_and_its_words_are_kept(tmp_path):
    script = tmp_path / "cxx"
    script.write_text('#!/bin/sh\necho "no such header" >&2\nexit 1\n')
    script.chmod(0o755)
    with pytest.raises(BuildError, match="no such header"):
        build_kernels(tmp_path / "cache", str(script))
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["lock"]


def test_without_a_compiler_the_reference_decodes_and_says_why(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="no-such-compiler"):
        find_compiler()
    with pytest.warns(RuntimeWarning, match=r"slow reference.*no C\+\+ compiler"):
        assert not build.load_kernels.__wrapped__()
