import numpy as np
import pytest
import torch

from promptmm_pyg.models import LayerGCN
from promptmm_pyg.training import TrainingConfig, train
from tests.models.setting import BATCH, make, operators
from tests.nn.graphs import USER_ITEM, dense
from tests.training.setting import make_split


def oracle(user, item, num_layers):
    """The sum of refined layers, one row at a time."""
    x0 = np.concatenate([user, item])
    adj = np.zeros((12, 12))
    adj[:5, 5:] = dense()
    adj += adj.T
    x, total = x0, 0.0
    for _ in range(num_layers):
        refined = []
        for row, start in zip(adj @ x, x0, strict=True):
            norm = np.linalg.norm(row) * np.linalg.norm(start)
            refined.append(row * (row @ start / norm) if norm else row)
        x = np.stack(refined)
        total = total + x
    return total[:5], total[5:]


@pytest.mark.parametrize('num_layers', [1, 4])
def test_forward_and_losses_equal_loops(num_layers):
    model = make(LayerGCN, num_layers=num_layers).eval()
    ids = {key: x.detach().double().numpy() for key, x in model.embeddings().items()}
    output = model(operators())
    user, item = oracle(ids['user'], ids['item'], num_layers)
    np.testing.assert_allclose(output['user'].detach(), user, atol=1e-6)
    np.testing.assert_allclose(output['item'].detach(), item, atol=1e-6)
    assert not output['user'][4].any()  # Isolated: layer 0 is left out.
    bpr = norm = 0.0
    for u, p, n in zip(*(x.tolist() for x in BATCH), strict=True):
        bpr += np.log1p(np.exp(-user[u] @ (item[p] - item[n])))
        rows = ids['user'][u], ids['item'][p], ids['item'][n]
        norm += sum((row**2).sum() for row in rows) / 2
    losses = model.losses(output, BATCH)
    assert losses['bpr'].item() == pytest.approx(bpr, rel=1e-5)
    assert losses['l2'].item() == pytest.approx(norm, rel=1e-5)


def test_every_second_epoch_draws_edges_uniformly():
    torch.manual_seed(0)
    # One edge of nodes without others, and a user with fifty items.
    edge_index = torch.stack([torch.tensor([0] + 50 * [1]), torch.arange(51)])
    sizes = {'user': 2, 'item': 51}
    model = LayerGCN(sizes, edge_type=USER_ITEM, prune_ratio=50 / 51)
    adj, rates = model.bipartite(edge_index), []
    for epoch in (1, 2):
        count = 0
        for _ in range(600):
            model.start_epoch(epoch)
            graph = model.train().pruning(adj).to_item
            assert model.pruning(adj).to_item is graph
            count += int(graph.edges()[0]) == 0
        rates.append(count / 600)
    by_degree = 1 / (1 + 50 / 50**0.5)
    assert abs(rates[0] - by_degree) < 4 * (by_degree * (1 - by_degree) / 600) ** 0.5
    assert abs(rates[1] - 1 / 51) < 4 * (1 / 51 / 600) ** 0.5


def test_draws_alternate_by_epoch_also_in_a_resumed_run(tmp_path):
    drawn = []

    class Watched(LayerGCN):
        def start_epoch(self, epoch):
            super().start_epoch(epoch)
            drawn.append(self.pruning.epoch % 2)

    split = make_split()
    for epochs in (1, 4):
        model = Watched({'user': 60, 'item': 40}, embedding_dim=4)
        config = TrainingConfig(
            epochs=epochs, run_dir=tmp_path, resume=epochs > 1, progress=False
        )
        train(model, split, config=config)
    assert drawn == [0, 1, 0, 1]


def test_errors_and_repr():
    assert str(make(LayerGCN)) == (
        'LayerGCN(NodeEmbeddings(user=5, item=7, embedding_dim=4), num_layers=4, '
        'prune_ratio=0.1)'
    )
    with pytest.raises(ValueError, match="'prune_ratio' must be"):
        make(LayerGCN, prune_ratio=1.0)
