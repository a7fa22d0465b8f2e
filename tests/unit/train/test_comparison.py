"""What a check calls the same, and how it names what is not."""

import pytest
import torch

from adamesh.train.comparison import CheckReport, Comparison

RIGHT = torch.tensor([1.0, -2.0, 0.0])
NOISY = RIGHT * (1 + 1e-6)


def compared(found=RIGHT, gradients=(RIGHT, RIGHT), digests=(7, 7), name="layer.weight"):
    """One step of two workers."""
    comparison = Comparison(name, RIGHT)
    comparison.gradients(5, list(gradients), [RIGHT, RIGHT], [NOISY, NOISY])
    comparison.values(5, found, RIGHT, NOISY)
    comparison.copies(digests)
    return comparison.report()


def test_the_same_is_the_same():
    report = compared()
    assert report.complaints() == []
    assert report.share == 0


def test_what_rounding_does_to_torch_itself_is_no_complaint():
    report = compared(found=NOISY, gradients=(NOISY, RIGHT))
    assert report.complaints() == []
    assert 0 < report.share < 1


def test_a_wrong_gradient_is_named_with_parameter_worker_and_step():
    (complaint,) = compared(gradients=(RIGHT, 1.01 * RIGHT)).complaints()
    assert "gradient of layer.weight on worker 1" in complaint
    assert "step 5" in complaint


def test_a_wrong_value_is_named_with_its_parameter():
    (complaint,) = compared(found=RIGHT + 0.01).complaints()
    assert complaint.startswith("layer.weight is 1.0e-02 away")


def test_a_copy_that_differs_in_one_bit_is_named_with_its_worker():
    report = compared(digests=(7, 8))
    assert report.complaints() == ["layer.weight on worker 1 is not bit for bit what worker 0 has"]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_within_tolerance(wrong):
    assert compared(found=torch.tensor([wrong, -2.0, 0.0])).complaints()


def test_a_zero_that_torch_keeps_zero_must_stay_zero():
    comparison = Comparison("bias", torch.zeros(2))
    comparison.values(1, torch.full((2,), 1e-30), torch.zeros(2), torch.zeros(2))
    assert comparison.report().complaints()


def test_the_worst_complaint_comes_first_and_survives_the_file(tmp_path):
    slight, severe = compared(found=RIGHT + 0.01), compared(digests=(7, 8), name="other.weight")
    report = CheckReport("digits", "adamw", 2, "cpu", 5, [compared(), slight, severe])
    report.save(tmp_path / "check.json")
    loaded = CheckReport.load(tmp_path / "check.json")
    assert loaded.failures == report.failures
    assert "other.weight" in loaded.failures[0]
