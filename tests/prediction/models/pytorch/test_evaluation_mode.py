"""Evaluation mode, also between threads."""

import threading

import pytest

from patchloom.prediction.models.pytorch.evaluation_mode import evaluation_mode

torch = pytest.importorskip("torch")


def test_two_threads():
    """A part is in training mode again when the last thread leaves, in whatever order threads come and go."""
    module = torch.nn.Dropout()
    entered, leave = threading.Event(), threading.Event()

    def other():
        with evaluation_mode([module]):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with evaluation_mode([module]):
        thread.start()
        entered.wait(30)
    assert not module.training
    leave.set()
    thread.join()
    assert module.training


def test_shared_part():
    """A part of two networks is held by both."""
    shared = torch.nn.Dropout()
    outer = torch.nn.Sequential(shared)
    with evaluation_mode([shared]):
        with evaluation_mode(tuple(outer.modules())):
            pass
        assert not shared.training
        assert outer.training
    assert shared.training


def test_eval_stays():
    """A part in evaluation mode stays in it."""
    module = torch.nn.Dropout().eval()
    with evaluation_mode([module]):
        pass
    assert not module.training
