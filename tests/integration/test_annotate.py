import csv
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from stance import DataError
from stance.agreement import agreement, alpha
from stance.annotate import choose, make_tasks, read_answers
from stance.cli import main
from stance.corpus import load_corpus
from stance.labels import CERTAINTIES, HOLDERS, LABELS
from tests.conftest import write_jsonl

ARTICLES = {
    "one": "Talks resume\n\nTalks on item 4 are deadlocked. A deal is within reach. It rained.",
    "two": "Envoys meet\n\nThe envoy offered to drop demand 7. Nobody answered him that day.",
}


@pytest.fixture
def exported(tmp_path):
    for name, text in ARTICLES.items():
        (tmp_path / f"{name}.txt").write_text(text)
    files = [str(tmp_path / f"{name}.txt") for name in ARTICLES]
    assert main(["annotate", "export", *files, "--out", str(tmp_path / "project")]) == 0
    return tmp_path / "project"


def label_studio(tasks, answers):
    """The tasks as Label Studio exports them after annotation."""
    for number, task in enumerate(tasks):
        task["annotations"] = [
            {
                "completed_by": {"id": who, "email": f"{who}@example.org"},
                "result": [
                    {
                        "from_name": k,
                        "to_name": "text",
                        "type": "choices",
                        "value": {"choices": [v]},
                    }
                    if k != "confidence"
                    else {"from_name": k, "type": "number", "value": {"number": v}}
                    for k, v in values[number].items()
                ],
            }
            for who, values in answers.items()
        ]
    return tasks


def test_labelling_config_offers_every_label_holder_and_certainty(exported):
    root = ET.parse(exported / "config.xml").getroot()
    offered = {c.get("name"): [o.get("value") for o in c] for c in root.iter("Choices")}
    assert offered["label"] == list(LABELS)
    assert offered["holder"] == list(HOLDERS)
    assert offered["certainty"] == list(CERTAINTIES)
    assert {t.get("value") for t in root.iter("Text")} == {"$before", "$text", "$after"}
    assert "<li>" in (exported / "instructions.html").read_text()


def test_exported_tasks_hold_no_label_and_the_context(exported):
    tasks = [t["data"] for t in json.loads((exported / "tasks.json").read_text())]
    assert len(tasks) == 7
    assert "label" not in tasks[0]
    assert tasks[2]["before"] == "Talks resume Talks on item 4 are deadlocked."
    assert tasks[2]["after"] == "It rained."


def test_round_trip_through_label_studio_keeps_every_vote(exported, tmp_path):
    tasks = json.loads((exported / "tasks.json").read_text())
    stance = {"label": "obstructive", "holder": "russia", "certainty": "stated", "confidence": 80}
    answers = {
        "ann": [{"label": "none"}, stance, *[{"label": "none"}] * 5],
        "bob": [
            {"label": "none"},
            {**stance, "label2": "none"},
            {"label": "optimistic"},
            *[{"label": "none"}] * 4,
        ],
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps(label_studio(tasks, answers)))
    out = tmp_path / "sentences.jsonl"
    assert main(["annotate", "import", str(path), "--out", str(out)]) == 0
    corpus = load_corpus(out)
    assert len(corpus) == 7
    assert all(len(s.votes) == 2 for s in corpus.sentences)
    second = corpus.sentences[1]
    assert (second.label, second.holder, second.certainty) == ("obstructive", "russia", "stated")
    assert second.votes[1].label2 == "none"
    assert second.votes[1].confidence == 0.8
    assert (
        agreement(corpus, n_resamples=10).confusion["ann@example.org / bob@example.org"][0][1] == 1
    )


def test_round_trip_through_csv_with_an_adjudicator(exported, tmp_path, capsys):
    rows = list(csv.DictReader((exported / "tasks.csv").open(newline="")))
    given = {"ann": "none", "bob": "optimistic", "adjudicator": "optimistic"}
    files = []
    for who, label in given.items():
        path = tmp_path / f"{who}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows([{**r, "label": label} for r in rows])
        files.append(str(path))
    out = str(tmp_path / "s.jsonl")
    assert main(["annotate", "import", *files[:2], "--out", out]) == 0
    assert "7 wait for an adjudicator" in capsys.readouterr().out
    assert main(["annotate", "import", *files, "--out", out]) == 0
    assert {s.label for s in load_corpus(out).sentences} == {"optimistic"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "expected a list"),
        ("a.json", "[3]", "task 1: not a Label Studio task"),
        ("a.csv", "text\nx\n", "no column"),
        ("a.csv", "article_id,index,text,label\na,0,x,maybe\n", "label is 'maybe'"),
        ("a.csv", "article_id,index,text,label\na,x,x,none\n", "index is 'x'"),
        ("a.csv", "article_id,index,text,label,confidence\na,0,x,none,400\n", "expected percent"),
    ],
)
def test_faulty_answers_are_one_clear_error(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=expected):
        read_answers(tmp_path / name)


def test_choice_takes_the_doubtful_and_balances_over_articles():
    articles = [make_tasks("a", list("abcd")), make_tasks("b", list("xyz"))]
    doubts = [np.array([0.9, 0.8, 0.7, 0.1]), np.array([0.0, 0.2, 0.1])]
    chosen = [t.text for t in choose(articles, doubts, 3)]
    assert chosen == ["a", "b", "y"]


def test_alpha_of_the_textbook_case():
    # Krippendorff 2011, nominal data, four observers, twelve units: 0.743
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3],
        [-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1],
    ]
    assert alpha(np.array(data)) == pytest.approx(0.743, abs=5e-4)


def test_agreement_needs_two_annotators(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"text": "Rain.", "label": "none", "votes": ["none"]}]
    )
    with pytest.raises(DataError, match="needs two"):
        agreement(load_corpus(path))
