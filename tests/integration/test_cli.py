import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stance.cli import COMMANDS
from tests.conftest import small_rows, write_jsonl

ARTICLE = "Talks resume in Geneva\n\nTalks on item 4 are deadlocked. A deal on 5 is within reach.\n"


def stance(*arguments, cwd, stdin=b"", code=0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "stance", *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
    )
    assert done.returncode == code, done.stderr.decode()
    return done


def test_help_names_every_command(tmp_path):
    out = stance("--help", cwd=tmp_path).stdout.decode()
    assert all(name in out for name in COMMANDS)
    assert b"unknown command" in stance("tarin", cwd=tmp_path, code=2).stderr
    for name in ("train", "evaluate", "benchmark"):
        assert f"usage: stance {name}".encode() in stance(name, "--help", cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_predict_reads_file_and_stdin_alike_and_leaves_nothing_behind(form, tiny_bundle, tmp_path):
    path = tmp_path / "article.txt"
    path.write_text(ARTICLE)
    options = ("--format", form, "--model", tiny_bundle)
    from_file = stance("predict", path, *options, cwd=tmp_path).stdout
    assert (
        from_file == stance("predict", "-", *options, cwd=tmp_path, stdin=ARTICLE.encode()).stdout
    )
    assert [p.name for p in tmp_path.iterdir()] == ["article.txt"]
    text = from_file.decode()
    if form == "jsonl":
        assert [json.loads(x)["index"] for x in text.splitlines()] == [0, 1, 2]
    elif form == "csv":
        assert next(csv.DictReader(io.StringIO(text)))["text"] == "Talks resume in Geneva"
    else:
        assert "3 sentences:" in text


def test_predict_never_loads_hydra(tiny_bundle, tmp_path):
    code = (
        "import sys; from stance.cli import main; "
        f"main(['predict', '-', '--model', {str(tiny_bundle)!r}]); "
        "print('hydra' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=ARTICLE.encode(), capture_output=True, check=True
    )
    assert done.stderr.decode().strip() == "False"


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [(b"caf\xe9", "byte 0xe9"), ("x".encode("utf-16"), "UTF-16"), (b"a\0b", "NUL")],
)
def test_predict_refuses_what_is_no_text(stdin, expected, tiny_bundle, tmp_path):
    done = stance("predict", "-", "--model", tiny_bundle, cwd=tmp_path, stdin=stdin, code=1)
    assert expected in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_predict_on_a_missing_file(tmp_path):
    assert b"No such file" in stance("predict", "none.txt", cwd=tmp_path, code=1).stderr


def test_audit_says_clean_or_not(tmp_path):
    cases = Path(__file__).parents[1] / "unit" / "segmentation_cases.json"
    texts = dict.fromkeys(t for _, found in json.loads(cases.read_text()) for t in found)
    rows = [{"text": t, "label": ("none", "optimistic")[i % 2]} for i, t in enumerate(texts)]
    kept = [r for r in rows if len(r["text"].split()) > 6 and "They agreed" not in r["text"]]
    done = stance("audit", write_jsonl(tmp_path / "clean.jsonl", kept), cwd=tmp_path)
    assert "leakage: 0\nfaults: 0" in done.stdout.decode()
    rows = small_rows(8)
    rows[0]["text"] = rows[-1]["text"] = "The very same sentence stands here twice, word by word."
    leaking = write_jsonl(tmp_path / "leak.jsonl", rows)
    assert "near copies" in stance("audit", leaking, cwd=tmp_path, code=1).stdout.decode()
    report = json.loads(stance("audit", leaking, "--json", cwd=tmp_path, code=1).stdout)
    assert len(report["leakage"]) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base, small_data) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    article = folder / "article.txt"
    article.write_text(ARTICLE)
    stance(
        "train",
        f"data={small_data}",
        f"model.base={tiny_base}",
        "trainer=smoke",
        "name=tiny",
        f"example={article}",
        cwd=folder,
    )
    return folder / "runs" / "tiny"


def test_train_writes_what_it_says(trained):
    names = {p.name for p in trained.iterdir()}
    assert {
        "bundle",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "learning_curves.png",
        "evaluation",
        "train.log",
    } <= names
    assert "macro_f1" in (trained / "bundle" / "README.md").read_text()


def test_evaluate_gives_the_figures_of_training(trained, small_data, tmp_path):
    stance("evaluate", f"model={trained}", f"data={small_data}", cwd=tmp_path)
    ours = json.loads((tmp_path / "runs/evaluate/evaluation.json").read_text())
    theirs = json.loads((trained / "evaluation" / "evaluation.json").read_text())
    assert ours["measures"] == theirs["measures"]


def test_console_and_python_agree(trained, tmp_path):
    import stance as package

    out = stance(
        "predict",
        "-",
        "--format",
        "jsonl",
        "--model",
        trained,
        cwd=tmp_path,
        stdin=ARTICLE.encode(),
    ).stdout
    made = package.load(trained).predict_article(ARTICLE)
    printed = [json.loads(line) for line in out.splitlines()]
    assert [p["label"] for p in printed] == [s.label for s in made.sentences]
    assert [p["score"] for p in printed] == pytest.approx([s.score for s in made.sentences])


def test_predictions_of_anyone_can_be_evaluated(trained, small_data, tmp_path):
    rows = [json.loads(line) for line in small_data.read_text().splitlines()]
    write_jsonl(tmp_path / "p.jsonl", rows)
    stance("evaluate", f"data={small_data}", "predictions=p.jsonl", cwd=tmp_path)
    report = json.loads((tmp_path / "runs/evaluate/evaluation.json").read_text())
    assert report["measures"]["macro_f1"]["value"] == 1.0


def test_multirun_makes_a_run_for_each_value(tiny_base, small_data, tmp_path):
    stance(
        "train",
        "-m",
        f"data={small_data}",
        f"model.base={tiny_base}",
        "trainer=smoke",
        "seed=1,2",
        "evaluate_test=false",
        cwd=tmp_path,
    )
    for number in "01":
        assert (tmp_path / "runs/train-sweep" / number / "bundle" / "manifest.json").is_file()


def test_leaking_data_is_refused_unless_allowed(tiny_base, tmp_path):
    rows = small_rows(24)
    rows[0]["text"] = rows[-1]["text"] = "The very same sentence stands here twice, word by word."
    data = write_jsonl(tmp_path / "leak.jsonl", rows)
    options = (f"data={data}", f"model.base={tiny_base}", "trainer=smoke")
    refused = stance("train", *options, cwd=tmp_path, code=1)
    assert "1 leaks between splits" in refused.stderr.decode()
    allowed = stance("train", *options, "data.allow_leakage=true", cwd=tmp_path)
    assert "LEAKING DATA" in allowed.stderr.decode()


FAULTY = {
    "unknown key": (["trainer.epochs=3"], "Key 'epochs' not in"),
    "unknown top key": (["speed=3"], "speed"),
    "unknown group choice": (["model=bert"], "model/bert"),
    "unknown trainer": (["trainer=fast"], "trainer/fast"),
    "unknown experiment": (["experiment=nothing"], "experiment"),
    "a word for a number": (["trainer.num_train_epochs=three"], "three"),
    "a float for an int": (["seed=1.5"], "1.5"),
    "a word for a flag": (["resume=perhaps"], "perhaps"),
    "null for a number": (["seed=null"], "seed"),
    "negative epochs": (["trainer.num_train_epochs=-1"], "num_train_epochs=-1"),
    "rate out of range": (["trainer.learning_rate=5"], "learning_rate=5"),
    "NaN": (["trainer.learning_rate=nan"], "learning_rate=nan"),
    "context out of range": (["model.n_context=9"], "n_context=9"),
    "too long inputs": (["model.max_length_tokens=100000"], "max_length_tokens"),
    "unknown precision": (["trainer.precision=fp8"], "precision=fp8"),
    "unknown device": (["trainer.device=tpu"], "device=tpu"),
    "no equals sign": (["minilm"], "not KEY=VALUE"),
    "broken grammar": (["data.path=[1,"], "data.path"),
    "interpolation to nowhere": (["name=${nowhere}"], "nowhere"),
    "a target": (["+model._target_=os.system"], "_target_"),
    "an empty name": (["name="], "name"),
    "a missing file": (["data=none.jsonl"], "no such file"),
    "an unknown base": (["model.base=nothing"], "unknown base model"),
    "no such config folder": (["--config-dir", "nowhere"], "no such folder"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_setting_gets_one_error_and_no_traceback(name, tmp_path, small_data):
    arguments, expected = FAULTY[name]
    if not any(a.startswith("data") for a in arguments):
        arguments = [*arguments, f"data={small_data}"]
    done = stance("train", *arguments, cwd=tmp_path, code=1)
    error = done.stderr.decode()
    assert error.count("stance train: error:") == 1
    assert expected in error
    assert "Traceback" not in error


def test_yaml_alias_bomb_is_refused_before_it_is_read(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (tmp_path / "bomb.yaml").write_text(bomb)
    done = stance("train", "--config-dir", tmp_path, "+bomb=bomb", cwd=tmp_path, code=1)
    assert "YAML aliases" in done.stderr.decode()


def test_users_add_their_own_configs(tiny_base, small_data, tmp_path):
    folder = tmp_path / "mine" / "trainer"
    folder.mkdir(parents=True)
    (folder / "brief.yaml").write_text("num_train_epochs: 1\nprecision: fp32\n")
    stance(
        "train",
        "--config-dir",
        tmp_path / "mine",
        "trainer=brief",
        f"data={small_data}",
        f"model.base={tiny_base}",
        "evaluate_test=false",
        cwd=tmp_path,
    )
    config = json.loads((tmp_path / "runs/train/config.json").read_text())
    assert config["trainer"]["num_train_epochs"] == 1


def test_benchmark_trains_compares_resumes_and_says_what_failed(
    tiny_base, small_data, tiny_bundle, tmp_path
):
    config = tmp_path / "conf" / "experiment"
    config.mkdir(parents=True)
    (config / "mine.yaml").write_text(
        "# @package _global_\n"
        "name: mine\nseeds: [1]\nn_resamples: 50\n"
        "systems:\n"
        "  majority: {kind: majority}\n"
        "  tiny:\n"
        f"    overrides: ['model.base={tiny_base}', trainer=smoke, trainer.train_batch_size=8]\n"
        f"  bundle: {{kind: bundle, source: '{tiny_bundle}'}}\n"
        f"tests:\n  held_out: {{path: '{small_data}', split: test}}\n"
    )
    options = ("--config-dir", tmp_path / "conf", "experiment=mine", f"data={small_data}")
    done = stance("benchmark", *options, cwd=tmp_path)
    table = done.stdout.decode()
    assert all(f"| {name} |" in table for name in ("majority", "tiny", "bundle"))
    out = tmp_path / "runs" / "mine"
    assert {p.suffix for p in out.glob("benchmark.*")} >= {".json", ".md", ".html", ".svg"}
    again = stance("benchmark", *options, cwd=tmp_path)
    assert again.stdout == done.stdout and b"cell" not in again.stderr
    broken = stance(
        "benchmark", *options, "+systems.gone={kind: bundle, source: x}",
        cwd=tmp_path, code=1,
    )  # fmt: skip
    assert "gone/1: no model 'x'" in broken.stdout.decode()
    assert "| tiny |" in broken.stdout.decode()
