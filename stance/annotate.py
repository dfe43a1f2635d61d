"""Sentences out to annotators and their votes back in: Label Studio and plain CSV.

Export picks sentences that still need a label and writes a Label Studio project: `tasks.json`,
`config.xml` (stance, second choice, holder, certainty, confidence) and `instructions.html` (the
codebook's short form); `tasks.csv` is the same for a spreadsheet, one copy an annotator. Import
reads any number of Label Studio exports and filled CSV files back with every vote.
"""

from __future__ import annotations

import csv
import html
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stance.corpus import ADJUDICATOR
from stance.errors import DataError
from stance.labels import CERTAINTIES, HOLDERS, LABELS, NONE
from stance.neutrality import Classifier
from stance.segment import decode_text

N_BEFORE, N_AFTER = 2, 1
_CSV_FIELDS = (
    *("article_id", "index", "title", "before", "text", "after"),
    *("label", "label2", "holder", "certainty", "confidence"),
)
_SHORT_FORM = (
    "Code the stance toward the peace talks that the sentence itself conveys, by words or directly "
    "entailed; in doubt: none.",
    "optimistic: the process or its outcome goes well or will (progress, closer, jointly agreed).",
    "obstructive: an actor refuses, stalls, hardens, sets one-sided preconditions or ultimatums, "
    "or the talks are said to be stopped.",
    "conciliatory: an actor offers, concedes, softens, accepts, appeals for talks, hosts them.",
    "none: all else, also pessimism that blames nobody, schedules, contents of a plan, the war, "
    "sanctions, other processes, genuine questions.",
    "Swap the names of the belligerents: if your label changes, it is wrong.",
    "Main clause over subordinate; after 'but' the later stance; conduct over outlook; of equals "
    "obstructive, then conciliatory, then optimistic.",
    "holder: whose stance it is; the actor who behaves so, not the one who reports it.",
    "confidence: the probability, in percent, that an equally trained coder picks the same label.",
)


@dataclass(frozen=True)
class Task:
    """One sentence to label, with what the annotator is shown around it."""

    article_id: str
    index: int
    text: str
    title: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Answer:
    """One annotator's answer to one task; `confidence` in [0, 1]."""

    annotator: str
    label: str
    label2: str | None = None
    holder: str | None = None
    certainty: str | None = None
    confidence: float = 1.0


def make_tasks(article_id: str, sentences: Sequence[str]) -> list[Task]:
    """Tasks of one article's sentences, in reading order."""
    title = sentences[0] if sentences else ""
    return [
        Task(
            article_id,
            i,
            text,
            title,
            " ".join(sentences[max(0, i - N_BEFORE) : i]),
            " ".join(sentences[i + 1 : i + 1 + N_AFTER]),
        )
        for i, text in enumerate(sentences)
    ]


def doubt(model: Classifier, articles: Sequence[Sequence[Task]]) -> list[NDArray[np.float64]]:
    """The model's doubt, one array an article: 1 minus the margin of the two top labels."""
    doubts = []
    for tasks in articles:
        texts = [t.text for t in tasks]
        proba = model.predict_proba(texts, [texts[:i] for i in range(len(texts))])
        top = np.sort(proba, 1)[:, -2:]
        doubts.append(1 - (top[:, 1] - top[:, 0]))
    return doubts


def choose(
    articles: Sequence[Sequence[Task]], doubts: Sequence[NDArray[np.float64]], n: int
) -> list[Task]:
    """The `n` most doubtful tasks, balanced: no article gives a second before each gave one."""
    ranked = []
    for number, values in enumerate(doubts):
        for rank, row in enumerate(np.argsort(-values, kind="stable")):
            ranked.append((rank, -values[row], number, int(row)))
    kept = sorted((number, row) for _, _, number, row in sorted(ranked)[:n])
    return [articles[number][row] for number, row in kept]


def labelling_config() -> str:
    """Label Studio's labelling configuration."""

    def choices(name: str, title: str, values: Sequence[str], required: bool) -> str:
        options = "".join(f'<Choice value="{v}"/>' for v in values)
        need = ' required="true"' if required else ""
        return (
            f'  <Header value="{title}"/>\n  <Choices name="{name}" toName="text" '
            f'choice="single" showInline="true"{need}>{options}</Choices>\n'
        )

    return (
        '<View>\n  <Header value="$title" size="4"/>\n'
        '  <Text name="before" value="$before"/>\n  <Text name="text" value="$text"/>\n'
        '  <Text name="after" value="$after"/>\n'
        + choices("label", "Stance toward the talks", LABELS, True)
        + choices("label2", "Second choice, if in doubt", LABELS, False)
        + choices("holder", "Whose stance (not for none)", HOLDERS, False)
        + choices("certainty", "Certainty (not for none)", CERTAINTIES, False)
        + '  <Number name="confidence" toName="text" min="40" max="100"/>\n</View>\n'
    )


def write_project(tasks: Sequence[Task], folder: Path) -> list[Path]:
    """Write tasks.json, config.xml, instructions.html and tasks.csv; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [vars_of(t) for t in tasks]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in _SHORT_FORM)
    contents = {
        "tasks.json": json.dumps([{"data": row} for row in rows], indent=1, ensure_ascii=False),
        "config.xml": labelling_config(),
        "instructions.html": f"<h3>Stance toward peace talks, short form</h3><ul>{items}</ul>\n",
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    with (folder / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _CSV_FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return [folder / name for name in (*contents, "tasks.csv")]


def vars_of(task: Task) -> dict[str, Any]:
    """The fields of a task as a dict."""
    return {name: getattr(task, name) for name in Task.__dataclass_fields__}


def read_answers(path: Path) -> list[tuple[Task, Answer]]:
    """Answers of a Label Studio export (.json) or a filled tasks.csv (annotator: its file name).

    Raises
    ------
    DataError : a fault, with file, task and value.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a Label Studio export or a filled tasks.csv")
    text = decode_text(path.read_bytes(), str(path))
    if path.suffix == ".csv":
        return _csv_answers(path, text)
    try:
        rows = json.loads(text)
    except ValueError as err:
        raise DataError(f"{path}: not JSON ({err}); export from Label Studio as JSON") from err
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of tasks; export from Label Studio as JSON")
    found = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: task {number}"
        try:
            task = _task(row["data"], where)
            for annotation in row.get("annotations") or []:
                if annotation.get("was_cancelled") or not annotation.get("result"):
                    continue
                values = {r["from_name"]: _value(r["value"]) for r in annotation["result"]}
                found.append((task, _answer(_who(annotation), values, where)))
        except (KeyError, TypeError, AttributeError, IndexError) as err:
            raise DataError(f"{where}: not a Label Studio task of this project ({err!r})") from err
    return found


def _value(value: dict[str, Any]) -> Any:
    return value["choices"][0] if "choices" in value else value["number"]


def _who(annotation: dict[str, Any]) -> str:
    who = annotation.get("completed_by", "unknown")
    return str(who.get("email") or who.get("id")) if isinstance(who, dict) else str(who)


def _csv_answers(path: Path, text: str) -> list[tuple[Task, Answer]]:
    found = []
    reader = csv.DictReader(text.splitlines(keepends=True))
    if lost := sorted({"article_id", "index", "text", "label"} - set(reader.fieldnames or [])):
        raise DataError(f"{path}:1: no column {lost[0]!r}; start from the exported tasks.csv")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if row["label"]:
            values = {k: v for k, v in row.items() if v}
            found.append((_task(row, where), _answer(path.stem, values, where)))
    return found


def _task(row: dict[str, Any], where: str) -> Task:
    try:
        return Task(str(row["article_id"]), int(row["index"]), str(row["text"]))
    except ValueError as err:
        raise DataError(f"{where}: index is {row['index']!r}; expected a number") from err


def _answer(annotator: str, values: dict[str, Any], where: str) -> Answer:
    allowed = {"label": LABELS, "label2": LABELS, "holder": HOLDERS, "certainty": CERTAINTIES}
    for name, choices in allowed.items():
        if name in values and values[name] not in choices:
            raise DataError(
                f"{where}: {name} is {values[name]!r}; expected one of {', '.join(choices)}"
            )
    if "label" not in values:
        raise DataError(f"{where}: an answer without label")
    is_none = values["label"] == NONE
    try:
        confidence = float(values.get("confidence", 100)) / 100
    except ValueError as err:
        raise DataError(f"{where}: confidence is {values['confidence']!r}") from err
    if not 0 <= confidence <= 1:
        raise DataError(
            f"{where}: confidence is {values['confidence']}; expected percent, 0 to 100"
        )
    second = values.get("label2")
    return Answer(
        annotator,
        values["label"],
        second if second != values["label"] else None,
        None if is_none else values.get("holder"),
        None if is_none else values.get("certainty"),
        confidence,
    )


def merge(answers: Sequence[tuple[Task, Answer]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows in the corpus's form, every vote kept, and the ids that need an adjudicator.

    The label is the adjudicator's where there is one (an annotator of that name), else what all
    say, else the most confident vote's, and then the sentence is listed as open. An annotator's
    later answer to the same sentence replaces the earlier one. `index` is renumbered within an
    article, in reading order, since not every sentence was exported; `article_index` keeps it.
    """
    votes: dict[tuple[str, int], dict[str, Answer]] = defaultdict(dict)
    texts: dict[tuple[str, int], str] = {}
    for task, answer in answers:
        key = (task.article_id, task.index)
        if texts.setdefault(key, task.text) != task.text:
            raise DataError(f"{task.article_id}:{task.index} has two texts; import one export")
        votes[key][answer.annotator] = answer
    rows, unsettled = [], []
    n_seen: dict[str, int] = defaultdict(int)
    for article_id, index in sorted(votes):
        given = votes[(article_id, index)]
        final = given.get(ADJUDICATOR) or max(given.values(), key=lambda a: a.confidence)
        if ADJUDICATOR not in given and len({a.label for a in given.values()}) > 1:
            unsettled.append(f"{article_id}:{index}")
        row: dict[str, Any] = {
            "article_id": article_id,
            "index": n_seen[article_id],
            "article_index": index,
            "text": texts[(article_id, index)],
            "label": final.label,
            "holder": final.holder,
            "certainty": final.certainty,
            "votes": [
                {
                    "annotator": a.annotator,
                    "label": a.label,
                    "label2": a.label2,
                    "holder": a.holder,
                    "confidence": a.confidence,
                }
                for a in given.values()
            ],
        }
        row["votes"] = [{k: v for k, v in vote.items() if v is not None} for vote in row["votes"]]
        rows.append({k: v for k, v in row.items() if v is not None})
        n_seen[article_id] += 1
    return rows, unsettled
