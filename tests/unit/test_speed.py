import numpy as np
import pytest
import torch

from stance.bundle import load_bundle
from stance.classifier import load
from stance.speed import (
    SpeedReport,
    archive_rows,
    engines,
    gemm_rate,
    measure_engines,
    operations,
    padding_efficiency,
    speed_markdown,
)

TEXTS = [
    "Kyiv rejected the offer.",
    "The rain fell on the harbour all day long, and nobody in the town cared about it.",
    "Moscow said that talks would go on in Istanbul.",
]


@pytest.fixture
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


def test_every_engine_gives_the_labels_of_fp32(tiny_bundle, bundle):
    failed = {}
    found = list(engines(str(tiny_bundle), bundle, ["fp32"], failed))
    assert [e.name for e in found] == ["pipeline, batch 1", "pipeline, batch 32", "fp32"]
    plain = load(str(tiny_bundle), backend="fp32", first_look=False)
    wanted = [p.label for p in plain.predict(TEXTS)]
    for engine in found:
        assert engine.run(TEXTS) == wanted, engine.name
    rows = measure_engines(found, bundle, TEXTS, 1)
    assert [r["agreement"] for r in rows] == [1.0, 1.0, 1.0]
    assert rows[0]["times_pipeline"] == 1.0
    assert failed == {}


def test_a_backend_that_was_not_exported_is_named(tiny_bundle, bundle):
    failed = {}
    assert len(list(engines(str(tiny_bundle), bundle, ["bf16"], failed))) == 2
    assert "stance export" in failed[f"{tiny_bundle} bf16"]


def test_operations_are_those_of_minilm_and_mpnet():
    assert operations([30], 6, 384) == pytest.approx(21.23e6 * 30 + 9216 * 30**2, rel=1e-3)
    assert operations([30], 12, 768) == pytest.approx(169.9e6 * 30 + 36864 * 30**2, rel=1e-3)


def test_matrix_products_have_a_rate():
    assert gemm_rate(torch.float32, 64, n_tokens=64) > 0


def test_padding_efficiency_is_the_share_of_real_tokens(bundle):
    alike = ["Kyiv rejected the offer."] * 4
    assert padding_efficiency(bundle, alike) == 1.0
    assert 0 < padding_efficiency(bundle, TEXTS) < 1.0


def test_archives_have_as_many_sentences_as_asked(tiny_bundle):
    (row,) = archive_rows(TEXTS, [50], [1], model=str(tiny_bundle))
    assert row["n_sentences"] == 50
    assert row["ms_per_sentence"] == pytest.approx(1000 * row["seconds"] / 50)
    assert np.isfinite(row["peak_mb"])


def test_tables_name_what_failed():
    text = speed_markdown(SpeedReport({"cpu": "x"}, [], failed={"mpnet bf16": "not exported"}))
    assert "mpnet bf16: not exported" in text
