"""Building the C++ kernels, once per machine."""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import cpu

from turbosparse.scratch import scratch_folder

SOURCES = Path(__file__).parent / "kernels"
LIBRARY = "kernels.so"
_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")
_X86_FLAGS = {"AVX512": ("-march=x86-64-v4",), "AVX2": ("-march=x86-64-v3",)}


class BuildError(RuntimeError):
    """The kernels can't be built on this machine; the message says why."""


@cache
def load_kernels() -> bool:
    """Gives the operators their CPU kernels, built if this machine has not built them yet.

    Where that fails, a warning says why, and the operators go on with their slow reference.

    Returns:
        Whether the kernels are there.
    """
    try:
        torch.ops.load_library(build_kernels(cache_folder()))
    except (BuildError, OSError) as error:
        warnings.warn(f"decoding with the slow reference: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


def build_kernels(folder: Path, compiler: str | None = None) -> Path:
    """Returns the kernels' library below a folder, compiled unless it lies there already.

    A library appears whole or not at all; two processes that need it at once compile it once.

    Args:
        folder: where libraries of all versions lie.
        compiler: command of a C++ compiler; None: $CXX, or c++, g++ or clang++.

    Raises:
        BuildError: There is no compiler, or it fails.
    """
    found = find_compiler(compiler)
    home = folder / _identity(found)
    home.mkdir(parents=True, exist_ok=True)
    library = home / LIBRARY
    with FileLock(home / "lock"):
        if not library.is_file():
            _compile(found, library)
    return library


def find_compiler(wanted: str | None = None) -> str:
    """Returns the path of a C++ compiler.

    Raises:
        BuildError: There is none.
    """
    named = wanted or os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C++ compiler found ({named or 'c++, g++, clang++'}); install one, or set CXX")


def cache_folder() -> Path:
    """Returns the user's folder for built kernels."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "turbosparse" / "kernels"


def instruction_set() -> str:
    """Returns what the kernels are compiled for: AVX512, AVX2 or DEFAULT, as torch sees the machine."""
    capability = torch.backends.cpu.get_cpu_capability()
    known = [name for name in _X86_FLAGS if capability.startswith(name)]
    return known[0] if known else "DEFAULT"


def _identity(compiler: str) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    digest.update(repr((_FLAGS, _machine_flags(), compiler)).encode())
    return f"torch-{torch.__version__}-{platform.machine()}-{instruction_set()}-{digest.hexdigest()[:16]}"


def _machine_flags() -> tuple[str, ...]:
    flags = _X86_FLAGS.get(instruction_set(), ())
    if instruction_set() != "AVX512":
        return flags
    extensions = {"-mavx512bf16": cpu._is_avx512_bf16_supported, "-mavx512vnni": cpu._is_vnni_supported}
    return flags + tuple(flag for flag, is_supported in extensions.items() if is_supported())


def _compile(compiler: str, library: Path) -> None:
    with scratch_folder("building-", library.parent) as place:
        built = place / LIBRARY
        command = [compiler, *_FLAGS, *_machine_flags(), *_torch_flags(), "-o", str(built)]
        command[1:1] = map(str, sorted(SOURCES.glob("*.cpp")))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{compiler} can't compile the kernels:\n{done.stderr[-2_000:]}")
        built.replace(library)


def _torch_flags() -> list[str]:
    # Imported here: it says on standard error that no GPU was found, and takes a while.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension  # noqa: PLC0415

    headers = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    libraries = [
        flag for path in cpp_extension.library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")
    ]
    return [*headers, *libraries, "-ltorch", "-ltorch_cpu", "-lc10"]
