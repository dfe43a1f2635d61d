import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path


def test_killed_runs_resume_to_the_same_bits(tiny_base, small_data, tmp_path):
    """Three random moments; scripts/kill_test.py does twenty on real weights."""

    def command(folder: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "stance", "train", f"data={small_data}", "resume=true"),
            *(f"model.base={tiny_base}", "trainer.num_train_epochs=40", "trainer.save_steps=3"),
            *("trainer.precision=fp32", "trainer.early_stopping_patience=40"),
            *("evaluate_test=false", f"output_dir={folder}"),
        ]

    def weights(folder: Path) -> str:
        return hashlib.sha256((folder / "bundle/weights.safetensors").read_bytes()).hexdigest()

    start = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    life = time.monotonic() - start
    rng = random.Random(5)
    for trial in range(3):
        folder = tmp_path / f"cut{trial}"
        process = subprocess.Popen(
            command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1.0) * life)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run(command(folder), check=True, capture_output=True)
        assert weights(folder) == weights(tmp_path / "whole")
