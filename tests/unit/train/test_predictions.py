"""What a run's model says of new inputs, for every task that reads lines."""

import numpy as np
import pytest
import torch

from adamesh.data.inputs import read_features
from adamesh.errors import DataError
from adamesh.tasks.catalog import find_task
from adamesh.train.config import RunConfig, write_config
from adamesh.train.trained import Trained, predictions
from tests.unit.train.test_trainer import trained

TEXT = "".join(f" = Title {n} = \n" + f"the {n} dogs and a cat . \n" * 40 for n in range(20))


@pytest.fixture(autouse=True)
def text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def run(folder, name, data=None, steps=1):
    """A run of one step and what it left."""
    config = RunConfig(task=name, data=data, steps=steps, batch_size=64, eval_every=100, keep_best=False)
    trained(folder, config, task=find_task(name))
    write_config(config, folder / "config.toml")
    return Trained(folder, "latest")


def said(model, file, lines):
    file.write_text(lines)
    return predictions(model, file)


@pytest.mark.parametrize("name", ["binary", "binary-mse"])
def test_a_point_gets_its_class_and_the_chance_of_class_1(tmp_path, name):
    model = run(tmp_path / "run", name)
    records = said(model, tmp_path / "in.csv", "x,y\n0.5,-0.25\n1 0\n0;3\n")
    points = read_features(tmp_path / "in.csv", 2)
    chances = model.model(points).squeeze(1).sigmoid()
    torch.testing.assert_close(torch.tensor([record["probability"] for record in records]), chances)
    assert [record["class"] for record in records] == (chances > 0.5).long().tolist()


def test_the_multilayer_perceptron_reads_images_as_digits_does(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 8, 8), np.uint8))
    records = predictions(run(tmp_path / "run", "mlp"), tmp_path / "in.npy")
    assert records[0] == records[1]
    assert set(records[0]) == {"digit", "probability"}


def test_a_text_is_followed_by_likely_tokens_and_only_its_last_128_count(tmp_path, text):
    model = run(tmp_path / "run", "text:tiny", text)
    short = "the 3 dogs and a" + " cat" * 128
    records = said(model, tmp_path / "in.txt", f"the\n{short}\nhere {short}\n")
    assert [record["text"] for record in records] == ["the", short, f"here {short}"]
    for record in records:
        chances = [guess["probability"] for guess in record["next"]]
        assert len(chances) == 5
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1
    vocabulary = model.task._vocabulary
    (row,) = vocabulary.encode(["the 3 dogs"])
    (record,) = said(model, tmp_path / "in.txt", "the 3 dogs\n")
    inputs = torch.tensor([row + [7] * (128 - len(row))])  # what comes later is not looked at
    chances = model.model(inputs)[0, len(row) - 1, : len(vocabulary)].softmax(0).topk(5).values
    torch.testing.assert_close(torch.tensor([guess["probability"] for guess in record["next"]]), chances)
    assert records[1]["next"] == records[2]["next"]
    assert records[0]["next"] != records[1]["next"]


def test_each_gap_of_a_line_gets_its_likely_tokens(tmp_path, text):
    model = run(tmp_path / "run", "wikipedia-bert", text)
    records = said(model, tmp_path / "in.txt", "the 3 [MASK] and a [MASK] .\n[MASK]\n")
    assert [len(record["masks"]) for record in records] == [2, 1]
    pieces = {guess["token"] for record in records for gap in record["masks"] for guess in gap}
    assert pieces <= {model.task._vocabulary.shown(number) for number in range(len(model.task._vocabulary))}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("no gap here", r"has no \[MASK\], and a line must have one"),
        ("[MASK]" + " cat" * 126, "makes 127 tokens, and the model sees at most 126; shorten the line"),
    ],
)
def test_a_line_that_bert_cannot_fill_is_named(tmp_path, text, line, rule):
    task = find_task("wikipedia-bert")
    task.load_data(text, 0)
    (tmp_path / "in.txt").write_text(f"a [MASK] .\n{line}\n")
    with pytest.raises(DataError, match=rf"in\.txt, line 2: {rule}"):
        task.read_inputs(tmp_path / "in.txt")  # type: ignore[attr-defined]


def test_tokens_are_shown_as_text_and_bytes_that_are_none_as_numbers(text):
    task = find_task("text:tiny")
    task.load_data(text, 0)
    vocabulary = task._vocabulary  # type: ignore[attr-defined]
    numbers = vocabulary.encode(["the é"])[0]
    assert [vocabulary.shown(number) for number in numbers] == ["the", " ", "<0xC3>", "<0xA9>"]
    assert vocabulary.shown(vocabulary.separator) == "<end>"


def test_a_user_and_an_item_get_the_chance_that_their_codes_have_in_training(tmp_path):
    model = run(tmp_path / "run", "movielens-deepfm", steps=20)
    records = said(model, tmp_path / "in.csv", "userId,movieId\n17,5\n99999,5\n17,99999\n99999,0\n")
    assert [record["unknown"] for record in records] == [[], ["user"], ["item"], ["user", "item"]]
    assert (records[0]["user"], records[0]["item"]) == (17, 5)
    train = model.task.load_data(None, 0).train
    index = int(((train._users == 16) & (train._items == train._items[train._users == 16][0])).nonzero()[0])
    item = int(train._items[index]) + 1
    (record,) = said(model, tmp_path / "in.csv", f"17\t{item}\n")
    logit, _ = model.model(*train.batch(torch.tensor([index]))[:2])
    assert record["probability"] == pytest.approx(float(logit.detach().sigmoid()), rel=1e-5)


def test_data_that_have_changed_since_are_refused(tmp_path, text):
    model = run(tmp_path / "run", "text:tiny", text)
    text.write_text(TEXT + " = More = \n" + "a word more . \n" * 400)
    with pytest.raises(DataError, match=r"text\.txt: has .* the model was trained on .*; restore the data, or train"):
        said(model, tmp_path / "in.txt", "the\n")
