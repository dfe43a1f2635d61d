from stance.evaluation import Measure
from stance.model import ModelSpec
from stance.report import format_measure, learning_curve_figure, model_card

SPEC = ModelSpec(("none", "optimistic"), "minilm", "0" * 64, {}, 1, 2, 0)


def test_card_says_what_the_model_is_and_how_it_was_made():
    card = model_card(SPEC, None, "stance train seed=1")
    assert card.startswith("---\nlicense: apache-2.0")
    assert "`minilm`" in card
    assert "`stance train seed=1`" in card
    assert "Not evaluated yet" in card


def test_measure_has_its_interval():
    assert format_measure(Measure(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_learning_curves_show_each_series():
    history = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "validation_loss": 0.9, "validation_macro_f1": 0.3},
    ]
    figure = learning_curve_figure(history)
    assert sum(len(axes.lines) for axes in figure.axes) == 3
