"""From your own tables to recommendations: raw ids in, raw ids out.

python examples/own_data_frame.py
"""

import argparse

import numpy as np
import pandas as pd
import torch

from promptmm_pyg import (
    MatrixFactorization,
    PromptMM,
    Recommender,
    TrainingConfig,
    distill,
    split_per_user,
    train,
)
from promptmm_pyg.data import read_table, validate


def make_tables(rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions, and a feature vector for most songs."""
    rng = np.random.default_rng(0)
    style = rng.integers(5, size=120)
    user = rng.integers(80, size=rows)
    song = rng.choice(120, size=rows)
    song = np.where(rng.random(rows) < 0.8, _like(rng, style, user % 5), song)
    table = pd.DataFrame({'listener': user, 'song': song}).drop_duplicates()
    table['listener'] = 'listener-' + table['listener'].astype(str)
    table['song'] = 'song-' + table['song'].astype(str).str.zfill(3)
    sound = rng.normal(size=(5, 24))[style] + 0.5 * rng.normal(size=(120, 24))
    names = [f'song-{i:03}' for i in range(120)]
    return table, pd.DataFrame(sound, index=names).drop(index=names[7])


def _like(
    rng: np.random.Generator, style: np.ndarray, styles: np.ndarray
) -> np.ndarray:
    by_style = [np.flatnonzero(style == s) for s in range(5)]
    return np.array([rng.choice(by_style[s]) for s in styles])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rows', type=int, default=2000)
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()
    interactions, sound = make_tables(args.rows)

    graph = read_table(
        interactions, user='listener', item='song', features={'sound': sound}
    )
    data = split_per_user(graph)
    validate(data, raise_on_error=True)  # Warns of unusual data.

    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)
    torch.manual_seed(0)
    # One song has no sound: a trained vector takes its place.
    teacher = PromptMM.from_data(data, missing='token', self_loop_weight=1.0)
    train(teacher, data, config=config)
    student = MatrixFactorization.from_data(data, embedding_dim=16)
    result = distill(student, teacher, data, config=config)
    assert result.baseline_history is not None
    print(f'student: validation Recall@20 {result.history.best_value:.4f}')
    print(f'baseline: validation Recall@20 {result.baseline_history.best_value:.4f}')

    recommender = Recommender.from_model(result.student, data)
    print('for listener-3:', *recommender.recommend('listener-3', k=5).ids)


if __name__ == '__main__':
    main()
