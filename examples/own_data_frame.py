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
    distill,
    split_per_user,
)
from promptmm_pyg.data import (
    INTERACTS,
    from_frame,
    modality_mask_dict,
    modality_x_dict,
    validate,
)
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities


def make_tables(rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Stands in for your own: who took what, and a vector for most songs."""
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
    rng: np.random.Generator, style: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    by_style = [np.flatnonzero(style == s) for s in range(5)]
    return np.array([rng.choice(by_style[s]) for s in wanted])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rows', type=int, default=2000)
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()
    interactions, sound = make_tables(args.rows)

    data = from_frame(
        interactions, user='listener', item='song', item_features={'sound': sound}
    )
    split = split_per_user(data)
    validate(split, raise_on_error=True)  # Warns of what is odd about the data.
    split = split.transform(StandardizeModalities(), AddModalityPCA(16))

    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)
    torch.manual_seed(0)
    teacher = PromptMM(
        split.train.num_nodes_dict,
        modality_x_dict(split.train),
        prompt_start_dict={
            key: split.train[key].prompt_start for key in split.train.node_types
        },
        modality_mask_dict=modality_mask_dict(split.train),  # One song has no sound.
        missing='token',
        self_loop_weight=1.0,
    )
    train(teacher, split, config=config)
    student = MatrixFactorization(split.train.num_nodes_dict, embedding_dim=16)
    out = distill(student, teacher, split, config=config)
    assert out.baseline_history is not None
    print(f'student: validation Recall@20 {out.history.best_value:.4f}')
    print(f'baseline: validation Recall@20 {out.baseline_history.best_value:.4f}')

    x_dict = get_embeddings(out.student, ())
    recommender = Recommender(
        x_dict['user'],
        x_dict['item'],
        user_ids=split.train['user'].raw_id.tolist(),
        item_ids=split.train['item'].raw_id.tolist(),
        seen=split.train[INTERACTS].edge_index,
    )
    print('for listener-3:', *recommender.recommend('listener-3', k=5).ids)


if __name__ == '__main__':
    main()
