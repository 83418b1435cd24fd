import pytest
import torch

from promptmm_pyg.serving import Recommender


@pytest.fixture
def synthetic():
    """Ten items of content and taste, whose embeddings are linear in their features
    but for a little noise; users gather what they took. One modality is missing here
    and there.
    """

    def build(num_users=40, num_items=60, channels=4, noise=0.1, seed=0):
        g = torch.Generator().manual_seed(seed)
        text = torch.randn(num_items, 6, generator=g) * 3.0 + 1.0
        image = torch.randn(num_items, 8, generator=g) * 0.1 - 5.0
        weights = [torch.randn(n, channels, generator=g) for n in (6, 8)]
        item_x = (text - 1.0) / 3.0 @ weights[0] + (image + 5.0) / 0.1 @ weights[1]
        item_x = item_x + noise * torch.randn(num_items, channels, generator=g)
        user_x = torch.randn(num_users, channels, generator=g)
        best = (user_x @ item_x.t()).topk(8, dim=1).indices
        user = torch.arange(num_users).repeat_interleave(8)
        model = Recommender(
            user_x,
            item_x,
            user_ids=[f'u{n}' for n in range(num_users)],
            item_ids=list(range(100, 100 + num_items)),
            seen=torch.stack([user, best.reshape(-1)]),
        )
        return model, {'text': text, 'image': image}

    return build
