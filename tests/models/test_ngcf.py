import torch
import torch.nn.functional as F

from promptmm_pyg.models.ngcf import NGCF
from tests.models.setting import (
    BATCH,
    detached,
    naive_bpr,
    naive_l2,
    operators,
)
from tests.nn.graphs import NUM_NODES, USER_ITEM, dense


def make(**kwargs):
    torch.manual_seed(0)
    return NGCF(NUM_NODES, edge_type=USER_ITEM, embedding_dim=4, **kwargs)


def test_forward_is_the_papers_matrix_form():
    model = make(num_layers=2).eval()
    p = detached(model)
    laplacian = torch.zeros(12, 12)
    laplacian[:5, 5:], laplacian[5:, :5] = dense(), dense().t()
    x = torch.cat([p['embeddings.tables.user'], p['embeddings.tables.item']])
    layers = [x]
    for n in range(2):
        w1, w2 = p[f'sum_lins.{n}.weight'].t(), p[f'product_lins.{n}.weight'].t()
        both = (laplacian + torch.eye(12)) @ x @ w1 + (laplacian @ x * x) @ w2
        x = F.leaky_relu(both, 0.2)
        layers.append(x)
    out = model(operators()).x_dict
    torch.testing.assert_close(
        torch.cat([out['user'], out['item']]), torch.cat(layers, dim=1)
    )


def test_terms_equal_loops_over_the_batch():
    model = make().eval()
    output = model(operators())
    terms = model.losses(output, BATCH)
    torch.testing.assert_close(terms['bpr'], naive_bpr(output.x_dict, BATCH))
    torch.testing.assert_close(terms['l2'], naive_l2(output.x_dict))


def test_dropout_acts_on_layers_and_leaves_the_ids():
    model = make(dropout=0.9, num_layers=1).train()
    torch.manual_seed(0)
    x = model(operators()).x_dict['user'].detach()
    assert torch.equal(x[:, :4], model.embeddings()['user'].detach())
    assert float((x[:, 4:] == 0).float().mean()) > 0.5
