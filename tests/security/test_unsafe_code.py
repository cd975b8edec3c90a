"""What no module of the product may do: unpickle, run code from data, interpolate a shell's command."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path for package in ("turbosparse", "tasks", "flows") for path in (ROOT / package).rglob("*.py")
)
UNSAFE_IMPORTS = {
    "pickle": "runs code from what it reads",
    "cloudpickle": "runs code from what it reads",
    "dill": "runs code from what it reads",
    "joblib": "runs code from what it reads",
    "marshal": "runs code from what it reads",
    "shelve": "runs code from what it reads",
    "tarfile": "unpacks outside of its folder where it is not held back",
    "zipfile": "unpacks outside of its folder where it is not held back",
    "xml": "expands entities",
}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "os.spawnlp",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "yaml.load_all",
    "shutil.unpack_archive",
    "tempfile.mktemp",
    "pandas.read_pickle",
    "pd.read_pickle",
}
REQUIRED_ARGUMENTS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "AutoTokenizer.from_pretrained": ("trust_remote_code", False),
    "AutoModelForCausalLM.from_pretrained": ("trust_remote_code", False),
    "AutoConfig.from_pretrained": ("trust_remote_code", False),
}
FORBIDDEN_ARGUMENTS = {"shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False}


def findings(tree: ast.AST) -> Iterator[str]:
    """Yields what is unsafe in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            is_plain = isinstance(node, ast.Import)
            names = [alias.name for alias in node.names] if is_plain else [node.module or ""]
            yield from (
                f"line {node.lineno}: {name} {UNSAFE_IMPORTS[name.partition('.')[0]]}"
                for name in names
                if name.partition(".")[0] in UNSAFE_IMPORTS
            )
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {problem}" for problem in _of_call(node))


def _of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    values = {word.arg: _constant(word.value) for word in call.keywords if word.arg is not None}
    if name in UNSAFE_CALLS:
        yield name
    if name in REQUIRED_ARGUMENTS:
        argument, wanted = REQUIRED_ARGUMENTS[name]
        if values.get(argument) is not wanted:
            yield f"{name} without {argument}={wanted}"
    for argument, unwanted in FORBIDDEN_ARGUMENTS.items():
        if values.get(argument) is unwanted:
            yield f"{name} with {argument}={unwanted}"


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else ...


def test_no_module_unpickles_or_runs_what_it_reads():
    problems = {
        str(path.relative_to(ROOT)): list(findings(ast.parse(path.read_text(encoding="utf-8"))))
        for path in MODULES
    }
    assert {path: found for path, found in problems.items() if found} == {}
    assert len(MODULES) > 100, "the packages lie elsewhere"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import xml.etree.ElementTree",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
        "AutoTokenizer.from_pretrained(folder)",
        "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)",
    ],
)
def test_the_rule_sees_what_it_forbids(line):
    assert list(findings(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, mmap_mode='r', allow_pickle=False)",
        "yaml.safe_load(text)",
        "subprocess.run([program, argument])",
        "model.eval()",
    ],
)
def test_the_rule_lets_safe_code_pass(line):
    assert not list(findings(ast.parse(line)))


def test_whoever_opens_a_uri_checks_it_first():
    """fsspec opens anything: another machine's memory, a chain of file systems, the metadata service."""
    openers = {"url_to_fs", "fsspec.core.url_to_fs", "fsspec.open", "fsspec.filesystem"}
    # Shards lie below the store's root, which was checked when the store was opened.
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if calls & openers and path.name != "stream.py":
            assert "check_uri" in calls, path
