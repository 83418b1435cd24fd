"""Policies on tensors alone: a bandit's policy is distilled into a smaller one.

    python examples/policy_distillation.py

Nothing here is a graph or a recommender; the losses import torch and no more. The list
is the set of actions, the positive the action that was taken.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from promptmm_pyg.losses import DecoupledKDLoss, ListwiseKDLoss


def expected_reward(policy: torch.nn.Module, state: Tensor, reward: Tensor) -> float:
    """What the policy earns on average when it draws its actions."""
    with torch.no_grad():
        return float((policy(state).softmax(-1) * reward).sum(-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--actions', type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(0)
    state = torch.randn(4000, 16)
    truth = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, args.actions)
    )
    with torch.no_grad():
        reward = (4 * truth(state)).softmax(-1)
    log, held_out = slice(0, 200), slice(200, 4000)  # Rewards are known for few.

    # A wide teacher learns from the rewards of every action, on all states.
    teacher = torch.nn.Sequential(
        torch.nn.Linear(16, 128), torch.nn.Tanh(), torch.nn.Linear(128, args.actions)
    )
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(args.steps):
        loss = -(teacher(state).softmax(-1) * reward).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    earned = expected_reward(teacher, state[held_out], reward[held_out])
    print(f'teacher: reward {earned:.3f}')

    # The student sees one logged action a state, and what its teacher would do.
    taken = torch.multinomial(reward[log], 1)
    target_mask = torch.zeros_like(reward[log], dtype=torch.bool).scatter(
        1, taken, True
    )
    with torch.no_grad():
        teacher_logits = teacher(state[log])
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        'log alone': lambda _: torch.zeros(()),
        'list-wise': lambda logits: ListwiseKDLoss()(logits, teacher_logits),
        'decoupled': lambda logits: DecoupledKDLoss(beta=2.0)(
            logits, teacher_logits, target_mask
        ),
    }
    for name, distillation in losses.items():
        torch.manual_seed(1)
        student = torch.nn.Linear(16, args.actions)
        optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
        for _ in range(args.steps):
            logits = student(state[log])
            loss = torch.nn.functional.cross_entropy(logits, taken[:, 0])
            loss = loss + 5.0 * distillation(logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        earned = expected_reward(student, state[held_out], reward[held_out])
        print(f'student, {name}: reward {earned:.3f}')


if __name__ == '__main__':
    main()
