"""Training outside of the main thread, as notebooks and servers do."""

import pytest
from tiny_runs import draw_photos, rows_of, run_command

# Flags of absl are not parsed, and worker processes make the batches.
TRAIN_IN_A_THREAD = """
import signal, sys, threading
from tiny_runs import config_for
import apinet_jax

def run():
    results.append(apinet_jax.train(config, sys.argv[2]))

config, results = config_for(sys.argv[1], optim__epochs=1.0, data__val_fraction=0.0), []
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
thread = threading.Thread(target=run)
thread.start()
thread.join()
assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
print("trained:", results[0].checkpoint)
"""


@pytest.mark.slow
def test_training_in_a_thread(tmp_path):
    photos, workdir = draw_photos(tmp_path / "photos"), tmp_path / "run"
    code, output = run_command([photos, workdir], program=("-c", TRAIN_IN_A_THREAD), devices=1)
    assert code == 0, output
    assert f"trained: {workdir}/checkpoints/6" in output
    assert [row["step"] for row in rows_of(workdir)] == list(range(1, 7))
