"""Sweeps whose trials end at once: what is proposed, judged, kept, and gone on with."""

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from adamesh.cli.main import main
from adamesh.cli.next_command import train_command
from adamesh.errors import ConfigurationError
from adamesh.train.config import changed
from adamesh.train.folder import checked
from adamesh.train.progress import Silent
from adamesh.train.settings import RunConfig
from adamesh.tune.results import FAILURE
from adamesh.tune.sweep.report import plots, print_sweep, ranked, write_record
from adamesh.tune.sweep.space import read_searches
from adamesh.tune.sweep.study import JOURNAL, StudyBook, failure_of
from adamesh.tune.sweep.sweep import Evaluations, Proposer, alone_in, sweep
from tests.unit.tune.trials import BASE, leave

LR = "optim.lr=1e-4..1:log"
BETAS = "optim.betas=0.5..0.98:near1/0.9..0.9999:near1"


def opened(folder, *searches, pruner="none", asked="same", sampler="random"):
    """The study in a folder, and what makes runs of its proposals."""
    dimensions = read_searches(searches or [LR])
    book = StudyBook(folder, dimensions, {"all": asked}, highest=False, seed=0, sampler=sampler, pruner=pruner)
    return book, Proposer(BASE, checked(BASE, 1), dimensions, folder)


def swept(book, proposer, num_trials, losses_of, jobs=1):
    """Run trials that leave these losses of each evaluation; returns their folders' names."""
    started = []

    def start(trial, _):
        started.append(trial.folder.name)
        losses_of(trial)
        return subprocess.Popen([sys.executable, "-S", "-c", ""])

    sweep(book, proposer, num_trials, jobs, Silent(), start)
    return started


def by_rate(trial):
    """The nearer to 0.01, the better."""
    leave(trial.folder, [1.0, abs(trial.config.optim.lr - 0.01)])


def test_a_sweep_ranks_its_trials_and_reports_them(tmp_path):
    book, proposer = opened(tmp_path, LR, BETAS)
    assert swept(book, proposer, 6, by_rate, jobs=6) == [f"{number:04d}" for number in range(6)]
    best = ranked(book)
    assert [trial.value for trial in best] == sorted(trial.value for trial in best)
    assert best[0].value == pytest.approx(abs(float(proposer.dimensions[0].setting(best[0].params)[1]) - 0.01))
    write_record(book, proposer, "adamesh train", tmp_path / "sweep.json")
    record = json.loads((tmp_path / "sweep.json").read_text(), parse_constant=pytest.fail)
    assert record["best"]["number"] == best[0].number
    assert record["trials"][0]["evaluations"][0] == 1.0
    assert sum(record["importances"].values()) == pytest.approx(1)
    console = Console(width=100, record=True, file=io.StringIO())
    print_sweep(console, book, proposer)
    text = console.export_text()
    assert "6 trials: 6 to their end, 0 ended because they fell behind, 0 failed" in text
    assert "what matters" in text
    lines = plots(book, [name for d in proposer.dimensions for name in d.names()], tmp_path)
    assert [line.split("/")[-1] for line in lines] == ["sweep-slice.png", "sweep-importance.png"]
    assert all(
        (tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("sweep-slice.png", "sweep-importance.png")
    )


def test_more_trials_are_added_and_none_is_repeated(tmp_path):
    book, proposer = opened(tmp_path)
    swept(book, proposer, 2, by_rate)
    book, proposer = opened(tmp_path)
    assert swept(book, proposer, 2, by_rate) == []
    assert swept(book, proposer, 4, by_rate) == ["0002", "0003"]
    rates = [trial.params["optim.lr"] for trial in book.trials()]
    assert len(set(rates)) == 4  # a sweep that goes on does not propose the same again


def test_what_ran_when_a_sweep_was_killed_is_marked_failed_and_repeated_in_its_folder(tmp_path):
    book, proposer = opened(tmp_path)
    swept(book, proposer, 1, by_rate)
    number, numbers, _ = book.propose()  # and then the process is killed, in the middle of a line
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"op_code": 6, "wor')
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    book, proposer = opened(tmp_path)
    assert book.repeated == 1
    seen = []

    def noted(trial):
        seen.append(trial.config.optim.lr)
        by_rate(trial)

    assert swept(book, proposer, 2, noted) == [f"{number:04d}"]
    assert seen == [float(f"{numbers['optim.lr']:.4g}")]
    assert [trial.number for trial in book.trials()] == [0, 2]


def test_a_trial_that_falls_behind_is_asked_to_end(tmp_path):
    book, proposer = opened(tmp_path, pruner="median")
    swept(book, proposer, 4, lambda trial: leave(trial.folder, [1.0, 0.5]), jobs=4)
    waits = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    processes = []

    def start(trial, _):
        leave(trial.folder, [9.0], stopped="interrupted")
        process = subprocess.Popen([sys.executable, "-S", "-c", waits], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as ready:
            ready.readline()
        processes.append(process)
        return process

    sweep(book, proposer, 5, 1, Silent(), start)
    assert processes[0].returncode == -signal.SIGINT
    assert len(ranked(book)) == 4
    assert book.trials()[-1].state.name == "PRUNED"
    assert failure_of(book.trials()[-1]) is None


@pytest.mark.parametrize(
    ("why", "state"), [("worker 0 failed at step 3: Diverged: the loss is nan", "PRUNED"), ("gone", "FAIL")]
)
def test_what_diverges_counts_as_bad_and_what_fails_otherwise_as_missing(tmp_path, why, state):
    book, proposer = opened(tmp_path)
    swept(book, proposer, 1, lambda trial: (trial.folder / FAILURE).write_text(why))
    (trial,) = book.trials()
    assert (trial.state.name, failure_of(trial)) == (state, why)


def test_settings_that_do_not_fit_each_other_are_a_failed_trial_and_not_the_end(tmp_path):
    book, proposer = opened(tmp_path, "plan.sync=every-step,diloco-4", "plan.blend=0.1,none")
    swept(book, proposer, 12, lambda trial: leave(trial.folder, [1.0]), jobs=12)
    failed = [trial for trial in book.trials() if failure_of(trial)]
    assert failed
    assert all("is for diloco" in str(failure_of(trial)) for trial in failed)
    assert len(book.trials()) == 12


def test_a_folder_of_another_sweep_or_one_at_work_is_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(ConfigurationError, match="holds a sweep of other settings"):
        opened(tmp_path, asked="other")
    with alone_in(tmp_path), pytest.raises(ConfigurationError, match="another sweep is at work"), alone_in(tmp_path):
        pass


def test_an_interruption_leaves_running_trials_to_be_gone_on_with(tmp_path):
    book, proposer = opened(tmp_path)

    def start(trial, _):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(book, proposer, 2, 1, Silent(), start)
    assert opened(tmp_path)[0].repeated == 1


def test_evaluations_are_read_once_each_as_they_come_and_anew_from_a_new_file(tmp_path):
    _, proposer = opened(tmp_path)
    trial = proposer.trial({"optim.lr": 0.1}, 0)
    evaluations, metrics = Evaluations(trial), trial.folder / "metrics.jsonl"
    assert evaluations.read() == []
    trial.folder.mkdir(parents=True)
    with metrics.open("a") as file:
        for text, known in (
            ('{"step": 1, "eval_loss": 2.0}\n{"step": 2, "lo', [2.0]),
            ('ss": 9}\n{"eval_loss": 1.0}\n', [2.0, 1.0]),
        ):
            file.write(text)
            file.flush()
            assert evaluations.read() == known
    new = tmp_path / "new"
    new.write_text('{"eval_loss": 3.0}\n')
    new.replace(metrics)
    assert evaluations.read() == evaluations.read() == [3.0]


@given(low=st.floats(1e-6, 1e-1), ratio=st.floats(1.1, 1e4), share=st.floats(0, 1))
def test_what_is_proposed_is_a_configuration_in_its_range(low, ratio, share):
    (dimension,) = read_searches([f"optim.lr={low!r}..{low * ratio!r}:log"])
    key, text = dimension.setting({"optim.lr": low * ratio**share})
    lr = changed(RunConfig(), key, text).optim.lr
    assert lr is not None
    assert low * 0.999 <= lr <= low * ratio * 1.001


@given(first=st.floats(0.02, 0.5), second=st.floats(1e-4, 0.1))
def test_decay_rates_are_searched_by_their_distance_to_one(first, second):
    (dimension,) = read_searches([BETAS])
    assert dimension.names() == ["1 - optim.betas[0]", "1 - optim.betas[1]"]
    key, text = dimension.setting({"1 - optim.betas[0]": first, "1 - optim.betas[1]": second})
    betas = changed(RunConfig(), key, text).optim.betas
    assert betas is not None
    assert [1 - beta for beta in betas] == pytest.approx([first, second], rel=6e-3)


@pytest.mark.parametrize(
    ("searches", "said"),
    [
        ([], "nothing is searched"),
        (["optim.lr"], "must be KEY=LOW"),
        (["optim.lr=1..x"], "1..x is no range of a float"),
        (["optim.lr=2..1"], "2 must be below 1"),
        (["optim.lr=0..1:log"], "log needs numbers above 0"),
        (["optim.betas=0.5..1:near1/0.9..0.99"], "near1 needs numbers below 1"),
        (["optim.lr=1..2:cubic"], "unknown scale 'cubic'"),
        (["optim.betas=0.5..0.9"], "takes 2 of them"),
        (["plan.up=1..2"], "takes values, not a range"),
        (["optim.lr=1,1"], "stands there twice"),
        (["optim.lr=1..2", "optim.lr=1..3"], "stands there twice"),
        (["optim.lx=1..2"], "the nearest known key is optim.lr"),
        (["seed=1..2"], "take --seeds"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(searches, said):
    with pytest.raises(ConfigurationError, match=said):
        read_searches(searches)


def test_a_space_with_impossible_ends_is_refused_before_anything_is_trained(tmp_path):
    dimensions = read_searches(["plan.up=exact,int9"])
    with pytest.raises(ConfigurationError, match=r"plan\.up=int9"):
        Proposer(replace(BASE), checked(BASE, 1), dimensions, tmp_path).corners()


def test_without_optuna_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith(("adamesh.tune.sweep", "adamesh.cli.sweep"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["sweep", "--search", LR]) == 2
    assert capsys.readouterr().err == "adamesh: adamesh sweep needs Optuna: pip install 'adamesh[sweep]'\n"
    assert list(tmp_path.iterdir()) == []


def test_the_next_command_keeps_what_train_takes_and_has_what_was_found():
    typed = [
        "--seeds",
        "3",
        "digits",
        "--nproc=2",
        "--optim.betas",
        "0.9",
        "0.9",
        "--out=here",
        "--plan.balance",
        "--steps",
        "5",
    ]
    found = {"optim.betas": "0.8/0.99", "plan.balance": "false", "optim.lr": "0.1", "plan.max_grad_norm": "none"}
    assert train_command(typed, ("--seeds", "--out"), found) == (
        "adamesh train digits --nproc=2 --steps 5 --optim.betas 0.8 0.99 --plan.no-balance --optim.lr 0.1 "
        "--plan.max-grad-norm None"
    )
