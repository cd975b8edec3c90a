"""Tasks by name, as objects of the harness: local ones, from a data folder, or from the hub."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from turbosparse.data.held_back import read_documents
from turbosparse.data.layout import HELD_BACK_NAME
from turbosparse.errors import DataError, TurboSparseError
from turbosparse.evaluation.local_tasks import LOCAL_TASKS, make_local_task
from turbosparse.evaluation.offline_tasks import HarnessTask, OfflineData, write_task_file
from turbosparse.evaluation.suites import SUITES, TaskRequest
from turbosparse.scratch import scratch_folder

FEWSHOT_SEED = 1234
"""The harness's own default."""
_FOLDERS = (
    *("arc", "gsm8k", "hellaswag", "lambada", "mmlu/default", "openbookqa", "piqa", "sciq"),
    *("super_glue/boolq", "truthfulqa", "wikitext", "winogrande"),
)
"""The harness's folders of the paper's tasks: listing all of its folders takes ten seconds."""

_NAME = re.compile(r"^\s*-?\s*[\"']?(?:task|group|tag)[\"']?\s*:\s*[\"']?([\w.-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Sources:
    """Where items come from."""

    data_folder: Path | None = None
    """Items of the harness's tasks; None: the hub."""
    held_back: Path | None = None
    """The documents that local tasks are made of; None: the data folder's held_back.jsonl."""


@dataclass
class LoadedTasks:
    """Tasks and groups as the harness's `evaluate` takes them."""

    tasks: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    group_map: dict[str, list[str]] = field(default_factory=dict)
    fewshot_source: dict[str, str] = field(default_factory=dict)
    """Where a task's examples are drawn from, where it has any."""

    def add(self, loaded: Mapping[str, Any]) -> None:
        """Adds what the harness's register has built."""
        self.tasks |= loaded["tasks"]
        self.groups |= loaded.get("groups", {})
        self.group_map |= loaded.get("group_map", {})

    def as_harness_takes_them(self) -> dict[str, Any]:
        """Returns what its `evaluate` takes."""
        return {"tasks": self.tasks, "groups": self.groups, "group_map": self.group_map}


def load_tasks(requests: Sequence[TaskRequest], sources: Sources, scratch: Path) -> LoadedTasks:
    """Builds the tasks in the order given, a group's or tag's members together.

    Raises:
        DataError: An unknown task, no data for one, or one that can't have so many examples.
    """
    index, members, fewshot_source = _prepare_all(requests, sources.data_folder, scratch)
    manager = _manager(index, scratch)
    local = _local_configs(requests, sources, scratch)
    loaded = LoadedTasks(fewshot_source=fewshot_source)
    for request in requests:
        loaded.add(_build(manager, local.get(request.name, request.name), sources))
        names = [task.name for task in members.get(request.name, ())]
        _set_shots([loaded.tasks[name] for name in names], request)
    for task in loaded.tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


def check_tasks(requests: Sequence[TaskRequest], data_folder: Path | None) -> None:
    """Refuses what can't be evaluated, as far as the hub need not be asked.

    Raises:
        DataError: As `load_tasks`.
    """
    with scratch_folder("turbosparse-checked-tasks-") as scratch:
        _prepare_all(requests, data_folder, scratch)


def _prepare_all(
    requests: Sequence[TaskRequest], data_folder: Path | None, scratch: Path
) -> tuple[dict[str, Any], dict[str, list[HarnessTask]], dict[str, str]]:
    """Writes the files of tasks that differ from the harness's own.

    Returns:
        The harness's register, each request's tasks, and where tasks with examples draw them from.
    """
    others = [request for request in requests if request.name not in LOCAL_TASKS]
    index = _register([request.name for request in others])
    members = {request.name: _members(request.name, index) for request in others}
    _check_once(members)
    offline = None if data_folder is None else OfflineData(data_folder, scratch)
    fewshot_source: dict[str, str] = {}
    for request in others:
        for task in members[request.name]:
            _check_shots(task, request)
            source = _prepare(task.drawing_from(request.fewshot_split), request, offline, scratch)
            if source is not None:
                fewshot_source[task.name] = source
    return index, members, fewshot_source


def _register(names: Sequence[str]) -> dict[str, Any]:
    """Returns the harness's register, of the paper's tasks alone where those are all that is asked for.

    Raises:
        DataError: A name that it does not have.
    """
    of_the_paper = _list_tasks(of_the_paper=True)
    others = [name for name in names if name not in of_the_paper]
    if not others:
        return dict(of_the_paper)
    mentioned, known = _written_names(others)
    everything = _list_tasks(of_the_paper=False) if mentioned == others else {}
    if unknown := [name for name in others if name not in everything]:
        raise _unknown(unknown, known)
    return dict(everything)


def _written_names(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns which names stand anywhere in the harness's task files, and what those files name.

    Reading them takes a second, understanding them ten: a misspelt name is answered sooner.
    """
    import lm_eval.tasks  # noqa: PLC0415 - takes seconds

    mentioned: set[str] = set()
    named: set[str] = set()
    for file in Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"):
        content = file.read_text(encoding="utf-8", errors="replace")
        named.update(_NAME.findall(content))
        mentioned.update(name for name in wanted if name in content)
    return [name for name in wanted if name in mentioned], sorted(named)


@cache
def _list_tasks(of_the_paper: bool) -> dict[str, Any]:
    """Returns the harness's register: the paper's tasks alone, or all of it."""
    import lm_eval.tasks  # noqa: PLC0415 - takes seconds

    if not of_the_paper:
        return dict(lm_eval.tasks.TaskManager().task_index)
    root = Path(lm_eval.tasks.__file__).parent
    folders = [root / folder for folder in _FOLDERS]
    return dict(lm_eval.tasks.TaskManager(include_defaults=False, include_path=folders).task_index)


def _manager(index: Mapping[str, Any], scratch: Path) -> Any:
    """Returns a register in which the task files of `scratch` stand before the harness's own."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - takes seconds

    manager = TaskManager(include_defaults=False, include_path=scratch)
    changed = {name: entry for name, entry in manager.task_index.items() if entry.yaml_path is not None}
    # A tag that the changed files repeat has only those: the harness's own has all.
    manager.task_index.update({**index, **changed})
    return manager


def _unknown(tasks: Sequence[str], known: Sequence[str]) -> DataError:
    close = difflib.get_close_matches(tasks[0], [*LOCAL_TASKS, *SUITES, *known], n=5)
    similar = f"; did you mean {', '.join(close)}?" if close else ""
    expected = (
        f"{', '.join(LOCAL_TASKS)}, a suite ({', '.join(SUITES)}), or a task of "
        f"lm-evaluation-harness{similar}"
    )
    return DataError("tasks", list(tasks), expected, "list those with `lm_eval ls tasks`")


def _members(name: str, index: Mapping[str, Any]) -> list[HarnessTask]:
    """Returns a task itself, or all tasks of a group or tag."""
    entry = index[name]
    if entry.kind.name == "TAG":
        return [task for member in sorted(entry.tags) for task in _members(member, index)]
    if entry.kind.name == "GROUP":
        children = [_child_name(child) for child in entry.cfg["task"]]
        return [task for child in children for task in _members(child, index)]
    return [HarnessTask(name, Path(entry.yaml_path), entry.cfg)]


def _child_name(child: str | Mapping[str, Any]) -> str:
    return child if isinstance(child, str) else str(child.get("task") or child["group"])


def _check_once(members: Mapping[str, Sequence[HarnessTask]]) -> None:
    named: dict[str, str] = {}
    for request, tasks in members.items():
        for task in tasks:
            if (other := named.setdefault(task.name, request)) != request:
                raise DataError(
                    f"tasks, {task.name}", [other, request], "each task once", f"leave out {request}"
                )


def _check_shots(task: HarnessTask, request: TaskRequest) -> None:
    """Refuses examples for a task that has no place, or no source, for them."""
    shots, fixed = request.num_fewshot, task.config.get("num_fewshot")
    if not shots:
        return
    remedy = f"ask for {task.name}:0"
    if fixed == 0:
        raise DataError(f"examples, {task.name}", shots, "0: its prompt is what it is", remedy)
    if task.config.get("output_type") == "loglikelihood_rolling":
        raise DataError(f"examples, {task.name}", shots, "0: a text's perplexity has no prompt", remedy)


def _prepare(
    task: HarnessTask, request: TaskRequest, offline: OfflineData | None, scratch: Path
) -> str | None:
    """Writes the task's file where it differs from the harness's; returns where examples come from."""
    default = task.config.get("num_fewshot") or 0
    shots = default if request.num_fewshot is None else request.num_fewshot
    if offline is not None:
        return offline.write_task(task, shots)
    if request.fewshot_split is not None:
        split = {"fewshot_split": request.fewshot_split}
        write_task_file({"include": str(task.yaml), "task": task.name, **split}, scratch)
    if not shots:
        return None
    if task.has_own_examples:
        return "the task's own"
    if task.example_split is None:
        remedy = f"ask for {task.name}:0, or give a data folder with examples"
        raise DataError(f"examples, {task.name}", shots, "a task with a split for examples", remedy)
    return task.example_split


def _local_configs(
    requests: Sequence[TaskRequest], sources: Sources, scratch: Path
) -> dict[str, dict[str, Any]]:
    local = [request for request in requests if request.name in LOCAL_TASKS]
    if not local:
        return {}
    for request in local:
        if request.num_fewshot:
            raise DataError(
                f"examples, {request.name}", request.num_fewshot, "0", f"ask for {request.name}:0"
            )
    file = sources.held_back or (sources.data_folder and sources.data_folder / HELD_BACK_NAME)
    if file is None:
        expected = f"a data folder with {HELD_BACK_NAME}, of which {', '.join(LOCAL_TASKS)} are made"
        remedy = "give the folder that prepare made with --data"
        raise DataError("tasks", [request.name for request in local], expected, remedy)
    documents = read_documents(file)
    return {request.name: make_local_task(request.name, documents, scratch) for request in local}


def _build(manager: Any, what: str | dict[str, Any], sources: Sources) -> dict[str, Any]:
    is_offline = isinstance(what, dict) or sources.data_folder is not None
    try:
        with _offline() if is_offline else nullcontext():
            loaded: dict[str, Any] = manager.load([what])
            return loaded
    except TurboSparseError:
        raise
    except Exception as error:  # neither the hub's client nor the harness's templates have one error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if is_offline:
            remedy = "give rows in the hub's own fields"
            raise DataError("data", what, f"rows of which prompts can be made ({reason})", remedy) from error
        expected = f"a task whose data can be had from the Hugging Face hub ({reason})"
        remedy = f"go online, give a data folder, or evaluate {', '.join(LOCAL_TASKS)}"
        raise DataError("tasks", what, expected, remedy) from error


def _set_shots(tasks: Sequence[Any], request: TaskRequest) -> None:
    for task in tasks:
        if request.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=request.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)


@contextmanager
def _offline() -> Iterator[None]:
    """Keeps the data set library off the network: it may be imported already, so its own flag counts."""
    import datasets  # noqa: PLC0415 - takes seconds

    was_offline = datasets.config.HF_DATASETS_OFFLINE
    datasets.config.HF_DATASETS_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_OFFLINE = was_offline
