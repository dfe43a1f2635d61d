import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stance.corpus import load_corpus
from stance.training import train
from tests.conftest import train_config

# One training unbroken; another whose processes all break off before step 5 and then go on.
BROKEN = """
import logging
import sys
from dataclasses import replace
from pathlib import Path

from stance.corpus import load_corpus
from stance.loop import Loop
from stance.training import train
from tests.conftest import train_config

logging.basicConfig(level=logging.INFO)
data, *options = sys.argv[1:]
config, corpus = train_config(*options), load_corpus(data)
train(config, corpus, Path("whole"))

class Stop(Exception):
    pass

step = Loop._step

def until_5(self, epoch, rows):
    if self.progress.step == 5:
        raise Stop
    return step(self, epoch, rows)

Loop._step = until_5
try:
    train(config, corpus, Path("cut"))
    sys.exit("was not cut")
except Stop:
    Loop._step = step
train(replace(config, resume=True), corpus, Path("cut"))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five articles to train on, 35 sentences with holders, and two for validation."""
    rows = []
    for article in range(7):
        for index in range(7):
            place, holder = (("Moscow", "russia"), ("Kyiv", "ukraine"))[index % 2]
            row = {"text": f"{place} saw rain on day {article} {index}.", "label": "none"}
            if index > 2:
                row = {"text": f"{place} rejected point {article} {index}.", "label": "obstructive"}
                row |= {"span": place, "holder": holder, "certainty": "stated"}
            split = "train" if article < 5 else "validation"
            rows.append({"article_id": f"a{article}", "index": index, "split": split, **row})
    path = tmp_path_factory.mktemp("parallel") / "data.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def options(data, tiny_base) -> list[str]:
    """Batches of 17, 17 and 1, so that one process has nothing to do in the last."""
    return [
        *(f"model.base={tiny_base}", "model.n_context=1", "data.allow_leakage=true"),
        *("trainer.class_weight_power=0.5", "trainer.save_steps=2"),
        *("trainer.train_batch_size=17", "trainer.num_train_epochs=8", "trainer.device=cpu"),
        *("trainer.early_stopping_patience=8", "trainer.precision=fp32", "evaluate_test=false"),
        *("trainer.learning_rate=1e-3", "trainer.head_learning_rate=1e-2", f"data.path={data}"),
    ]


def torchrun(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *map(str, arguments),
        ],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
    )


def curve(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_draw_the_loss_curve_of_one(options, data, tmp_path):
    plain = [*options, "model.dropout=0", "model.encoder_dropout=0"]
    done = torchrun("-m", "stance", "train", *plain, "output_dir=two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("written:") == 1
    train(train_config(*plain), load_corpus(data), tmp_path / "one")
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [r["step"] for r in one if "loss" in r] == [10, 20]
    assert one[-1]["validation_loss"] < one[0]["validation_loss"] - 0.05
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=2e-5)


def test_processes_broken_off_and_resumed_end_with_the_same_bits(options, data, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done = torchrun("broken.py", data, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert b"resumed at step 4 of 24" in done.stderr
    for part in ("model", "averaged", "best", "optimizer"):
        whole, cut = (
            (tmp_path / run / "checkpoint-24" / f"{part}.safetensors").read_bytes()
            for run in ("whole", "cut")
        )
        assert whole == cut
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
