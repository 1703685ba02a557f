"""Kills runs of AutoAttack at random moments, as a machine would."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
import numpy as np
from keras_robust.attacks import APGD, AutoAttack, Square
from keras_robust.attacks import autoattack_state
from tests.attacks.contract import contract_data, contract_model

autoattack_state._SHARE = 1.0  # save after every batch
ball = {"norm": "Linf", "epsilon": 0.01}
parts = [APGD(**ball, steps=2, restarts=4), Square(**ball, queries=5, restarts=4)]
auto = AutoAttack(**ball, version="custom", attacks=parts)
model = contract_model()
x, y = contract_data(model)
state = sys.argv[1] if sys.argv[1] != "none" else None
result = auto.run(
    model, x, y, seed=4, batch_size=4, state_path=state, progress=lambda *each: print(*each, flush=True)
)
np.savez(sys.argv[2], x_adv=result.x_adv, after=list(result.accuracy_after.values()))
"""


def start(state, output):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(state), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(1200)
def test_a_run_killed_at_ten_random_moments_ends_like_the_unbroken_one(tmp_path):
    whole, resumed, state = tmp_path / "whole.npz", tmp_path / "resumed.npz", tmp_path / "state.npz"
    assert start("none", whole).wait() == 0
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = start(state, resumed)
        for _ in range(rng.integers(0, 3)):  # batches that it lives through
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "the run ended before it was killed: make it longer"
        process.kill()
        process.wait()
    assert start(state, resumed).wait() == 0
    with np.load(whole) as expected, np.load(resumed) as found:
        np.testing.assert_array_equal(found["x_adv"], expected["x_adv"])
        np.testing.assert_array_equal(found["after"], expected["after"])
    assert 0 < found_share(resumed) < 1


def found_share(path):
    with np.load(path) as file:
        return file["after"][-1]
