"""How often the 95 % intervals of `label_shares` hold the true share, by simulation.

usage: python scripts/coverage.py [--model minilm] [--n-trials 500]

Each trial draws true shares, articles that differ in how much stance they hold, and answers with
the error rates of a shipped model: once as many articles as its validation split has, to learn the
errors from, and once forty articles to count in.
"""

import argparse

import numpy as np

from stance import load
from stance.calibration import Calibration, label_shares
from stance.records import ArticlePrediction, Prediction

N_SENTENCES = 15
N_TARGET = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--n-trials", type=int, default=500)
    options = parser.parse_args()
    model = load(options.model)
    known = model.calibration.confusions()
    given_true = known.sum(0) / known.sum((0, 2))[:, None]
    base = known.sum((0, 2)) / known.sum()
    rng = np.random.default_rng(0)

    def draw(n_articles: int, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = rng.dirichlet(15 * shares, n_articles)
        y = np.array([rng.choice(len(shares), N_SENTENCES, p=p) for p in own])
        return y, np.array([[rng.choice(len(shares), p=given_true[t]) for t in row] for row in y])

    hits, bias, counted_bias = [], [], []
    for trial in range(options.n_trials):
        y, answers = draw(len(known), base)
        group = np.repeat(np.arange(len(known)), N_SENTENCES)
        calibration = Calibration(np.eye(len(base))[answers.ravel()], y.ravel(), group)
        shares = rng.dirichlet(20 * base)
        _, answers = draw(N_TARGET, shares)
        articles = [
            ArticlePrediction("", tuple(_answer(a, model.classes_) for a in row), model.classes_)
            for row in answers
        ]
        found = list(label_shares(articles, calibration, 400, seed=trial).values())
        hits.append([f.low <= s <= f.high for f, s in zip(found, shares, strict=True)])
        bias.append([f.value - s for f, s in zip(found, shares, strict=True)])
        counted_bias.append([f.counted - s for f, s in zip(found, shares, strict=True)])
    print(
        f"{options.n_trials} trials, {len(known)} articles to learn errors, {N_TARGET} to count in"
    )
    columns = (np.mean(hits, 0), np.mean(bias, 0), np.mean(counted_bias, 0))
    for label, covered, corrected, counted in zip(model.classes_, *columns, strict=True):
        print(f"{label:13} covered {covered:.3f}  bias {corrected:+.4f}  as counted {counted:+.4f}")
    print(f"all           covered {np.mean(hits):.3f}")


def _answer(label_id: int, classes: tuple[str, ...]) -> Prediction:
    scores = {c: float(i == label_id) for i, c in enumerate(classes)}
    return Prediction("", classes[label_id], 1.0, scores)


if __name__ == "__main__":
    main()
