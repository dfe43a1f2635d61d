"""`stance audit DATA`: leakage and faults of labelled sentences."""

from __future__ import annotations

import argparse
import json

from stance.audit import audit
from stance.config import find_data
from stance.corpus import load_corpus

_N_SHOWN = 20


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_show(v)}" for k, v in value.items()) + ")"
    return str(value)


def main(argv: list[str]) -> int:
    """Audit a corpus; 0 clean, 1 not."""
    parser = argparse.ArgumentParser(prog="stance audit", description=__doc__)
    parser.add_argument("data", metavar="DATA", help=".jsonl or .csv file, or a corpus folder")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--real", metavar="FILE", help="real sentences to compare the corpus with")
    options = parser.parse_args(argv)
    real = load_corpus(options.real) if options.real else None
    report = audit(load_corpus(find_data(options.data)), real)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return 0 if report.is_clean else 1
    for title, found in (("leakage", report.leakage), ("faults", report.faults)):
        print(f"{title}: {len(found)}")
        for line in found[:_N_SHOWN]:
            print(f"  {line}")
        if len(found) > _N_SHOWN:
            print(f"  ... and {len(found) - _N_SHOWN} more (--json shows all)")
    for name, value in report.measures.items():
        if name == "counts":
            for field, counts in value.items():
                print(f"{field}: " + ", ".join(f"{k} {v}" for k, v in counts.items()))
        else:
            print(f"{name}: " + ", ".join(f"{k} {_show(v)}" for k, v in value.items()))
    return 0 if report.is_clean else 1
