"""One training on several processes, each with its shard of every batch.

python examples/data_parallel.py
torchrun --nproc-per-node 2 examples/data_parallel.py
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from promptmm_pyg import LightGCN, PromptMM, distill, evaluate, split_per_user
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.training import TrainingConfig, process_group, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--out', type=Path, help='folder for checkpoints and logs')
    args = parser.parse_args()

    # Without torchrun this is a group of one, and the rest is an ordinary script.
    with process_group() as device:
        run(args, device)


def run(args: argparse.Namespace, device: torch.device) -> None:
    # 1. Every process has the same data: seeds must be equal.
    data = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    data.train.to(device)

    # 2. `batch_size` is that of all processes together: 512 each with two.
    config = TrainingConfig(
        learning_rate=0.01,
        batch_size=1024,
        epochs=args.epochs,
        patience=10,
        run_dir=args.out,
    )
    torch.manual_seed(0)
    teacher = PromptMM.from_data(data).to(device)
    train(teacher, data, config=config)

    # 3. The same for the student; parameters start as those of rank 0.
    student = LightGCN.from_data(data, embedding_dim=16).to(device)
    result = distill(
        student,
        teacher,
        data,
        baseline=False,
        config=replace(config, run_dir=args.out and args.out / 'student'),
    )

    # 4. Each process ranks for its users; all of them get the full result.
    evaluation = evaluate(result.student, data.test, ks=(20,), batch_size=64)
    rank, size = (dist.get_rank(), dist.get_world_size()) if grouped() else (0, 1)
    if rank == 0:
        print(f'student Recall@20 {evaluation.metrics["Recall@20"]:.6f}')
        print(f'by {size} process(es)')


def grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


if __name__ == '__main__':
    main()
