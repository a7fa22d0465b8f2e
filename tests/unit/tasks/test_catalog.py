import textwrap
from typing import Any

import pytest

from adamesh.errors import ConfigurationError
from adamesh.tasks.catalog import find_task, task_names

MINE = """
    from torch import nn
    from adamesh.tasks.base import Splits, Task
    from adamesh.tasks.digits import Digits  # imported, so not this file's own

    class Mine(Task):
        name = "mine"
        summary = "my own"
        def __init__(self, width={default}):
            self.width = width
        def build_model(self):
            return nn.Linear(self.width, 1)
        def load_data(self, data, seed): ...
        def loss(self, model, batch): ...
        def metrics(self, model, batch): ...
"""


def written(folder, text):
    path = folder / "my_task.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def width_of(path):
    task: Any = find_task(path)
    return task.width


def test_built_in_tasks_are_listed_by_name():
    assert {"digits", "regression"} <= set(task_names())


def test_a_file_that_defines_one_task_is_a_task(tmp_path):
    assert width_of(written(tmp_path, MINE.replace("{default}", "3"))) == 3


def test_a_file_may_hold_an_instance_called_task(tmp_path):
    text = MINE.replace("={default}", "") + "\n    task = Mine(width=5)"
    assert width_of(written(tmp_path, text)) == 5


def test_a_task_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "my_neighbour_width.py").write_text("WIDTH = 7")
    text = "    from my_neighbour_width import WIDTH\n" + MINE.replace("{default}", "WIDTH")
    assert width_of(written(tmp_path, text)) == 7


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(ConfigurationError, match="did you mean 'digits'"):
        find_task("digit")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.py: no such file"):
        find_task(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = 1", "found none"),
        ("    from adamesh.tasks.base import Task\n    class A(Task): name = 'a'", "found none"),
        (MINE.replace("{default}", "1") + "\n    class Other(Mine): pass", "found Mine, Other"),
        (MINE.replace("={default}", ""), "without arguments"),
        (MINE.replace("{default}", "1").replace("summary", "sumary"), r"Mine\.summary must be set"),
        ("import absent_module_of_mine", "ModuleNotFoundError"),
        ("def :", "SyntaxError"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_the_reason(tmp_path, text, rule):
    with pytest.raises(ConfigurationError, match=rule):
        find_task(written(tmp_path, text))


def test_a_size_is_named_behind_a_colon_and_brings_its_defaults():
    small, tiny = find_task("text"), find_task("text:tiny")
    count = [sum(p.numel() for p in task.build_model().parameters()) for task in (small, tiny)]
    assert count[0] > 7e6 > 1e6 > count[1]
    assert (small.name, tiny.name) == ("text", "text")
    assert small.defaults.lr != tiny.defaults.lr


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("text:tny", "did you mean text:tiny"),
        ("wikipedia-bert:huge", "sizes: tiny, mini, small, medium, base"),
        ("digits:tiny", "comes in one size"),
        ("txt:tiny", "did you mean 'text'"),
    ],
)
def test_an_unknown_size_is_refused_with_what_there_is(name, rule):
    with pytest.raises(ConfigurationError, match=rule):
        find_task(name)
