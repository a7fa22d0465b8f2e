"""Where tasks are found: the files of this package by name, a user's own by path. Nothing is registered."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import adamesh.tasks
from adamesh.errors import ConfigurationError
from adamesh.tasks.base import Task

__all__ = ["find_task", "task_names"]

_NOT_TASKS = ("base", "catalog", "images", "tokens")


def task_names() -> list[str]:
    """The built-in tasks' names, sorted. The file of task ``some-name`` is ``some_name.py``."""
    modules = (module.name for module in pkgutil.iter_modules(adamesh.tasks.__path__))
    return sorted(name.replace("_", "-") for name in modules if name not in _NOT_TASKS)


def find_task(name: str) -> Task[Any]:
    """The task called ``name``, or the one that the Python file at the path ``name`` defines.

    ``some-name:some-size`` is a built-in task with a model of that size. A file has a ``Task`` instance called
    ``task``, or exactly one concrete subclass of ``Task`` that takes no arguments.

    Raises:
        ConfigurationError: there is no such task, size or file, or the file does not define one task.
    """
    if name.endswith(".py"):
        return _task_of(_module_at(Path(name)), name)
    name, _, size = name.partition(":")
    names = task_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"unknown task {name!r}; {meant}built-in tasks: {', '.join(names)}; "
            "a task of your own is a path to a .py file"
        )
    task = _task_of(importlib.import_module(f"adamesh.tasks.{name.replace('-', '_')}"), name)
    return _sized(task, size) if size else task


def _sized(task: Task[Any], size: str) -> Task[Any]:
    if not task.sizes:
        raise ConfigurationError(f"task {task.name}:{size}: {task.name} comes in one size; leave out :{size}")
    if size not in task.sizes:
        near = difflib.get_close_matches(size, task.sizes, n=1)
        meant = f"did you mean {task.name}:{near[0]}? " if near else ""
        raise ConfigurationError(f"unknown size {task.name}:{size}; {meant}sizes: {', '.join(task.sizes)}")
    kind: Any = type(task)
    sized: Task[Any] = kind(size)
    return sized


def _module_at(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; give the path of a Python file that defines a Task")
    path = path.resolve()
    name = f"adamesh_user_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As for a script, its neighbours can be imported; after everything else, so that they hide nothing.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigurationError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _task_of(module: ModuleType, origin: str) -> Task[Any]:
    ready = getattr(module, "task", None)
    if isinstance(ready, Task):
        return ready
    classes = [
        member
        for member in vars(module).values()
        if isinstance(member, type)
        and issubclass(member, Task)
        and member.__module__ == module.__name__
        and not getattr(member, "__abstractmethods__", None)
    ]
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "none (are all abstract methods defined?)"
        raise ConfigurationError(
            f"{origin}: must define exactly one concrete subclass of adamesh.tasks.base.Task, or a variable "
            f"named task that holds an instance; found {found}"
        )
    for attribute in ("name", "summary"):
        if not isinstance(getattr(classes[0], attribute, None), str):
            raise ConfigurationError(f"{origin}: {classes[0].__name__}.{attribute} must be set to a text")
    try:
        return classes[0]()
    except TypeError as error:
        raise ConfigurationError(
            f"{origin}: {classes[0].__name__} must be built without arguments ({error}); give them defaults, "
            f"or set a variable named task to an instance"
        ) from error
