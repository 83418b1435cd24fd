import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.models import PromptMM
from promptmm_pyg.transforms import ImputeFromNeighbors, StandardizeModalities


def make_data(edges=((0, 0), (0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 0), (3, 3))):
    g = torch.Generator().manual_seed(0)
    data = HeteroData()
    data['user'].num_nodes = 5
    data['item'].num_nodes = 6
    data['item'].x_image = torch.randn(6, 3, generator=g)
    data['item'].mask_image = torch.tensor([True, False, True, False, False, True])
    data['item'].x_text = torch.randn(6, 2, generator=g)
    data['user'].x_text = torch.randn(5, 2, generator=g)
    data['user'].mask_text = torch.tensor([False, True, True, True, False])
    edge_index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).t().contiguous()
    data[INTERACTS].edge_index = edge_index
    data[REV_INTERACTS].edge_index = edge_index.flip([0])
    return data


def naive(x, mask, node, other):
    out = x.clone()
    for i in (~mask).nonzero().flatten().tolist():
        found = [
            x[node[f]]
            for e in range(len(node)) if node[e] == i
            for f in range(len(node)) if other[f] == other[e] and mask[node[f]]
        ]  # fmt: skip
        out[i] = torch.stack(found or list(x[mask])).mean(dim=0)
    return out


def test_agrees_with_a_loop_over_users_and_their_items():
    data, out = make_data(), ImputeFromNeighbors()(make_data())
    user, item = data[INTERACTS].edge_index
    x, mask = data['item'].x_image, data['item'].mask_image
    torch.testing.assert_close(out['item'].x_image, naive(x, mask, item, user))
    x, mask = data['user'].x_text, data['user'].mask_text
    torch.testing.assert_close(out['user'].x_text, naive(x, mask, user, item))


def test_agrees_with_the_loop_on_a_random_graph():
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        edges = torch.stack(
            [torch.randint(5, (9,), generator=g), torch.randint(6, (9,), generator=g)]
        ).t()
        data = make_data(edges.unique(dim=0).tolist())
        user, item = data[INTERACTS].edge_index
        x, mask = data['item'].x_image, data['item'].mask_image
        expected = naive(x, mask, item, user)
        torch.testing.assert_close(
            ImputeFromNeighbors()(data)['item'].x_image, expected
        )


def test_a_value_by_hand():
    data = make_data()
    x = ImputeFromNeighbors()(data)['item'].x_image
    first, third = data['item'].x_image[[0, 2]]
    # Item 1 meets item 0 at users 0 and 2, item 2 at users 1 and 2.
    torch.testing.assert_close(x[1], (2 * first + 2 * third) / 4)


def test_without_neighbors_a_row_is_the_mean_of_all_present_rows():
    data = make_data()
    x = ImputeFromNeighbors()(data)['item'].x_image
    mean = data['item'].x_image[data['item'].mask_image].mean(dim=0)
    torch.testing.assert_close(x[3], mean)  # Its only user has nothing else.
    torch.testing.assert_close(x[4], mean)  # It has no user.


def test_present_rows_masks_and_the_given_graph_stay():
    data = make_data()
    out = ImputeFromNeighbors()(data)
    mask = data['item'].mask_image
    assert torch.equal(out['item'].x_image[mask], data['item'].x_image[mask])
    assert torch.equal(out['item'].mask_image, mask)
    assert out['item'].x_text is data['item'].x_text
    torch.testing.assert_close(data['item'].x_image, make_data()['item'].x_image)


def test_what_an_absent_row_held_does_not_matter():
    data, spoilt = make_data(), make_data()
    spoilt['item'].x_image[~spoilt['item'].mask_image] = float('nan')
    torch.testing.assert_close(
        ImputeFromNeighbors()(spoilt)['item'].x_image,
        ImputeFromNeighbors()(data)['item'].x_image,
    )


def test_without_any_present_row_or_any_edge_all_is_finite():
    data = make_data()
    data['item'].mask_image = torch.zeros(6, dtype=torch.bool)
    assert (ImputeFromNeighbors()(data)['item'].x_image == 0).all()
    data = make_data(edges=())
    mean = data['item'].x_image[data['item'].mask_image].mean(dim=0)
    x = ImputeFromNeighbors()(data)['item'].x_image
    torch.testing.assert_close(x[[1, 3, 4]], mean.expand(3, 3))


def test_dtype_is_kept_and_double_is_exact():
    data = make_data()
    data['item'].x_image = data['item'].x_image.double()
    data['user'].x_text = data['user'].x_text.half()
    user, item = data[INTERACTS].edge_index
    expected = naive(data['item'].x_image, data['item'].mask_image, item, user)
    out = ImputeFromNeighbors()(data)
    torch.testing.assert_close(out['item'].x_image, expected, rtol=1e-14, atol=1e-14)
    assert out['user'].x_text.dtype == torch.half


def test_filled_in_rows_reach_a_teacher_that_is_not_given_the_mask():
    data = ImputeFromNeighbors()(StandardizeModalities()(make_data()))
    x = data['item'].x_image
    assert (x[~data['item'].mask_image].abs().sum(dim=1) > 0).all()
    num_nodes, features = {'user': 5, 'item': 6}, {'image': {'item': x}}
    edge_index_dict = {key: data[key].edge_index for key in (INTERACTS, REV_INTERACTS)}
    outputs = []
    for masks in (None, {'image': {'item': data['item'].mask_image}}):
        torch.manual_seed(0)
        teacher = PromptMM(num_nodes, features, modality_mask_dict=masks).eval()
        outputs.append(teacher(edge_index_dict).modality_x_dict['image']['item'])
    assert not torch.allclose(*outputs)


def test_repr():
    assert str(ImputeFromNeighbors()) == 'ImputeFromNeighbors()'
