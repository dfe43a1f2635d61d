import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stance import DataError, InputError, split_sentences
from stance.segment import clean_text

CASES = json.loads(Path(__file__).with_name("segmentation_cases.json").read_text("utf-8"))
PAGE = """<!doctype html><html><head><title>Envoys meet in Geneva | The Paper</title></head><body>
<nav><a href="/">Home</a><a href="/world">World</a></nav><article><h1>Envoys meet in Geneva</h1>
<p>The envoys of both sides met in Geneva on Sunday for five hours of talks about the draft.</p>
<p>"We are closer than we were," one of them said. Nobody gave a date for the next round.</p>
<p>Artillery fire was reported along the river through the night, regional officials said.</p>
</article><footer>Copyright 2025 The Paper. All rights reserved.</footer></body></html>"""


def test_there_are_at_least_sixty_hard_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[c[0][:40] for c in CASES])
def test_hard_case_is_split_as_a_reader_would(text, expected):
    result = split_sentences(text)
    assert [s.text for s in result.sentences] == expected


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_offsets_slice_back_and_nothing_but_space_and_markers_is_lost(text):
    result = split_sentences(text)
    position = 0
    for sentence in sorted([*result.sentences, *result.dropped], key=lambda s: s.start):
        assert result.text[sentence.start : sentence.end] == sentence.text
        assert sentence.text == sentence.text.strip() != ""
        assert sentence.start >= position
        between = result.text[position : sentence.start]
        assert sum(c.isalnum() for c in between) <= 2 * between.count("\n") + 3
        position = sentence.end


def test_html_gives_headline_and_sentences_without_menu_and_footer():
    texts = [s.text for s in split_sentences(PAGE).sentences]
    assert texts[0].startswith("Envoys meet in Geneva")
    assert '"We are closer than we were," one of them said.' in texts
    assert not any("rights reserved" in t or t == "Home" for t in texts)


def test_html_without_article_is_one_clear_error():
    with pytest.raises(DataError, match="no article text"):
        split_sentences("<html><body></body></html>")


def test_anything_but_text_is_refused():
    with pytest.raises(InputError, match="bytes"):
        split_sentences(b"Talks.")


def test_cleaning_drops_controls_and_surrogates_and_composes():
    assert clean_text("e\u0301\x00\x07 \ud800 x\u00a0y\u200b") == "é \ufffd xy".replace("xy", "x y")


def test_a_million_characters_are_split():
    text = "The envoys met again in Geneva on Sunday. " * 24_000
    assert len(split_sentences(text).sentences) == 24_000
