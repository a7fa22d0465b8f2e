"""How trials are run and what is said of them, on trials that take no time."""

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from adamesh.errors import ConfigurationError
from adamesh.train.progress import Lines, Silent
from adamesh.tune.arms import Arm
from adamesh.tune.compare import compare
from adamesh.tune.plot import plot
from adamesh.tune.record import write_record
from adamesh.tune.results import FAILURE, ArmResult, TrialResult
from adamesh.tune.running import jobs_at_once
from adamesh.tune.table import print_comparison
from tests.unit.tune.trials import BASE, compared, comparison, leave


def ending(losses):
    """Trials end with these losses by (up, seed), or fail where there is none."""

    def end(trial):
        loss = losses.get((trial.config.plan.up, trial.config.seed))
        if loss is None:
            (trial.folder / FAILURE).write_text("worker 0 failed at step 3: Diverged: the loss is nan\n")
            return 1
        leave(trial.folder, [2 * loss, loss])
        return 0

    return end


LOSSES = {("exact", 0): 1.0, ("exact", 1): 2.0, ("int8", 0): 1.1, ("int8", 1): 2.1, ("int4", 0): 1.5}


@pytest.fixture
def results(tmp_path):
    arms, trials = comparison(tmp_path, "plan.up=exact,int8,int4")
    return compared(arms, trials, ending(LOSSES), Silent())[0]


def printed(results, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    print_comparison(console, results, results[0].arm.config)
    return console.export_text()


def test_one_trial_that_fails_leaves_the_others_and_is_reported(results):
    assert [len(result.finished) for result in results] == [2, 2, 1]
    text = printed(results)
    assert "plan.up=int4, seed 1 failed: worker 0 failed at step 3: Diverged" in text
    assert "1 of 2" in text
    assert [result.interval("loss").mean for result in results] == pytest.approx([1.5, 1.6, 1.5])


def test_a_trial_that_ends_without_a_word_is_reported_with_its_log(tmp_path):
    arms, trials = comparison(tmp_path, "plan.up=exact", seeds=1)
    (result,), _ = compared(arms, trials, lambda trial: 9, Silent())
    assert result.trials[0].failure == f"ended with exit code 9; see {trials[0].folder / 'output.log'}"


def test_differences_are_paired_by_seed_so_what_seeds_do_to_both_cancels(results):
    exact, int8, int4 = results
    difference = int8.difference(exact, "loss", 1)
    assert difference.interval.mean == pytest.approx(0.1)
    assert difference.verdict == "differs"  # though the intervals of the two means overlap widely
    assert int4.difference(exact, "loss", 1).verdict == "one seed: noise unknown"
    assert exact.difference(exact, "loss", 1).verdict == "identical"


@given(
    mine=st.lists(st.floats(-5, 5), min_size=2, max_size=6),
    noise=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    num=st.integers(1, 6),
)
def test_the_more_is_compared_the_more_it_takes_to_differ_and_both_directions_agree(mine, noise, num):
    arm = Arm((), BASE)
    one = ArmResult(arm, [TrialResult(seed, None, {"loss": value}) for seed, value in enumerate(mine)])
    other = ArmResult(
        arm, [TrialResult(seed, None, {"loss": v + n}) for (seed, v), n in zip(enumerate(mine), noise, strict=False)]
    )
    there, back, stricter = (
        one.difference(other, "loss", num),
        other.difference(one, "loss", num),
        one.difference(other, "loss", num + 1),
    )
    assert there
    assert back
    assert stricter
    assert there.verdict == back.verdict
    assert there.interval.mean == pytest.approx(-back.interval.mean, abs=1e-9)
    assert stricter.interval.half_width >= there.interval.half_width
    assert stricter.confidence > there.confidence >= 0.95
    if stricter.verdict == "differs":
        assert there.verdict == "differs"


def test_finished_trials_are_not_repeated_and_failed_or_interrupted_ones_are(tmp_path):
    overs = "plan.up=exact,int8,int4"
    arms, trials = comparison(tmp_path, overs)
    _, first = compared(arms, trials, ending(LOSSES), Silent())
    assert len(first.names) == 6
    leave(trials[0].folder, [1.0], stopped="interrupted")
    arms, trials = comparison(tmp_path, overs)
    results, again = compared(arms, trials, ending(LOSSES | {("int4", 1): 2.5}), Silent())
    assert again.names == ["plan.up=exact, seed 0", "plan.up=int4, seed 1"]
    assert all(trial.finished for result in results for trial in result.trials)
    # More seeds, more values: only what is new is run.
    arms, trials = comparison(tmp_path, "plan.up=exact,int8,int4,bf16", seeds=2)
    _, more = compared(arms, trials, ending({("bf16", 0): 1, ("bf16", 1): 2}), Silent())
    assert more.names == ["plan.up=bf16, seed 0", "plan.up=bf16, seed 1"]


def test_a_folder_of_other_trials_is_refused(tmp_path, results):
    arms, trials = comparison(tmp_path, "plan.up=exact,int8,int4", config=replace(BASE, steps=5))
    with pytest.raises(ConfigurationError, match=r"holds a trial with other settings than .* choose another --out"):
        compared(arms, trials, ending(LOSSES), Silent())


def test_as_many_trials_run_at_once_as_there_are_cores_for_and_one_where_the_clock_decides(tmp_path):
    arms, trials = comparison(tmp_path, "nproc=1,2")
    assert [jobs_at_once(2, cores, timed=False) for cores in (1, 2, 5)] == [1, 1, 2]
    assert jobs_at_once(2, 64, timed=True) == 1

    def end(trial):
        leave(trial.folder, [1.0])
        return 0

    _, started = compared(arms, trials, end, Silent(), jobs=3)
    assert started.jobs == [3] * 4


def test_an_interruption_ends_what_runs_and_keeps_what_is_finished(tmp_path):
    arms, trials = comparison(tmp_path, "plan.up=exact,int8", seeds=1)
    processes: list[subprocess.Popen] = []

    def start(trial, jobs):
        if processes:
            raise KeyboardInterrupt  # while the first one runs
        # A shell's background jobs ignore SIGINT, and what they start does too.
        script = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)"
        processes.append(subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE))
        assert processes[0].stdout is not None
        with processes[0].stdout as ready:
            ready.readline()
        return processes[0]

    with pytest.raises(KeyboardInterrupt):
        compare(arms, trials, 2, Silent(), start)
    assert processes[0].returncode is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_even_where_a_shell_had_it_ignored(tmp_path, number):
    arms, trials = comparison(tmp_path, "plan.up=exact", seeds=1)

    def end(trial):
        signal.raise_signal(number)
        return 0

    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            compared(arms, trials, end, Silent())
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_curves_are_against_what_was_used_up(results):
    curve = results[0].trials[0].curve
    assert (curve.samples, curve.losses) == ([10, 20], [2.0, 1.0])
    assert curve.seconds == pytest.approx([1.0, 2.0])
    assert curve.bytes == [200, 400]
    assert results[0].trials[0].bytes_total == 400


def test_the_table_fits_80_columns_and_says_how_it_was_made(results):
    text = printed(results, width=80)
    assert max(map(len, text.split("differences:")[0].split("±  and")[0].splitlines()[:12])) <= 80
    for fragment in ("plan.up=int8: loss +0.1000 [", "(Bonferroni)", "paired", "400 B", "2 compared, so each at 97.5%"):
        assert fragment in text, fragment
    assert "worse than plan.up=exact" in text


def test_the_record_has_everything_as_strict_json(results, tmp_path):
    write_record(results, results[0].arm.config, tmp_path / "compare.json")
    record = json.loads((tmp_path / "compare.json").read_text(), parse_constant=pytest.fail)
    assert [arm["settings"] for arm in record["arms"]] == [{"plan.up": up} for up in ("exact", "int8", "int4")]
    assert record["arms"][1]["difference"]["verdict"] == "differs"
    assert record["arms"][0]["trials"][1]["curve"]["losses"] == [4.0, 2.0]


def test_the_plot_is_a_picture_or_one_line_that_says_why_not(results, tmp_path, monkeypatch):
    assert plot(results, "title", tmp_path / "plot.png") == f"plot in {tmp_path / 'plot.png'}"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert plot([replace(result, trials=[]) for result in results], "title", tmp_path / "none.png").startswith(
        "no plot"
    )
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'adamesh[plots]'" in plot(results, "title", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_losses_stand_on_the_plot_as_plain_numbers(results, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    plot(results, "title", tmp_path / "plot.png")
    axis = figures[0].axes[0]
    axis.set_ylim(0.04, 1.2)
    figures[0].draw_without_rendering()
    labels = [label.get_text() for label in axis.yaxis.get_ticklabels(which="both")]
    assert {"0.05", "0.1", "0.2", "1"} <= set(labels)
    assert not any("$" in label for label in labels)


def test_a_display_without_a_terminal_gets_a_line_for_each_trial(tmp_path):
    console = Console(width=100, record=True, file=io.StringIO())
    arms, trials = comparison(tmp_path, "plan.up=exact,int4")
    compared(arms, trials, ending(LOSSES), Lines(console, "trial"))
    text = console.export_text()
    assert "2, 4 trials, 1 at once" in text
    assert "plan.up=exact, seed 1: loss 2" in text
    assert "plan.up=int4, seed 1: failed: worker 0 failed at step 3" in text
