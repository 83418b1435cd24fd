"""What holds for every trainable model with item features; subclassed per model."""

import copy
import math
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from promptmm_pyg import models, training
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.data.schema import INTERACTS, modality_x_dict
from promptmm_pyg.distillation import promptmm_losses
from promptmm_pyg.loader import Triplets
from promptmm_pyg.nn import csr_pair_dict
from promptmm_pyg.targets import TeacherOutput, soft_targets
from promptmm_pyg.training import TrainingConfig
from tests.nn.graphs import EDGE_INDEX, NUM_NODES, USER_ITEM, edges, features, weights

# The models of the field with item features and losses of their own.
CONTENT = [
    models.BM3,
    models.CLCRec,
    models.FREEDOM,
    models.GRCN,
    models.LATTICE,
    models.LightGCNM,
    models.MGCN,
    models.MMGCN,
    models.MMSSL,
    models.PGL,
    models.SLMRec,
    models.SMORE,
    models.VBPR,
]
# A user twice, an item as positive twice.
BATCH = Triplets(
    torch.tensor([0, 2, 2, 3]), torch.tensor([3, 1, 5, 5]), torch.tensor([1, 0, 4, 6])
)
WIDTH = 4


def item_x_dict(num_modalities=2, num=7):
    names = ('image', 'text', 'audio')[:num_modalities]
    return {
        name: {'item': features(3 + i, seed=10 + i, num=num)}
        for i, name in enumerate(names)
    }


def build(cls, num_modalities=2, seed=0, **kwargs):
    torch.manual_seed(seed)
    x_dict = kwargs.pop('modality_x_dict', item_x_dict(num_modalities))
    return cls(NUM_NODES, x_dict, edge_type=USER_ITEM, embedding_dim=WIDTH, **kwargs)


def operators():
    return csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)


def all_finite(tensors):
    return all(bool(x.isfinite().all()) for x in tensors)


def bpr_by_hand(user_x, item_x, batch=BATCH):
    losses = []
    for user, positive, negative in zip(*(x.tolist() for x in batch), strict=True):
        margin = user_x[user] @ item_x[positive] - user_x[user] @ item_x[negative]
        losses.append(torch.log1p(torch.exp(-margin)))
    return torch.stack(losses).mean()


def half_norm_by_hand(user_x, item_x, batch=BATCH):
    rows = [
        user_x[u].square().sum() + item_x[p].square().sum() + item_x[n].square().sum()
        for u, p, n in zip(*(x.tolist() for x in batch), strict=True)
    ]
    return torch.stack(rows).mean() / 2


def info_nce_by_hand(a, b, temperature):
    """Both directions, by loops."""
    losses = []
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            cosines = [torch.cosine_similarity(x[i], row, dim=0) for row in y]
            logits = torch.stack(cosines) / temperature
            losses.append(torch.logsumexp(logits, 0) - logits[i])
    return torch.stack(losses).mean()


def dense_smooth(adj, user, item, num_layers):
    """LightGCN on the stacked adjacency matrix of users and items."""
    num_users = len(user)
    square = torch.zeros(num_users + len(item), num_users + len(item))
    square[:num_users, num_users:] = adj
    square[num_users:, :num_users] = adj.t()
    x = torch.cat([user, item])
    layers = [torch.linalg.matrix_power(square, n) @ x for n in range(num_layers + 1)]
    mean = torch.stack(layers).mean(dim=0)
    return mean[:num_users], mean[num_users:]


def dense_knn(x, k, weighted=True):
    """The normalized item graph, ``[i, j]`` from ``j`` to ``i``, by loops."""
    graph = torch.zeros(len(x), len(x))
    for i in range(len(x)):
        if not x[i].any():
            continue
        others = [j for j in range(len(x)) if j != i and x[j].any()]
        cosine = {j: float(torch.cosine_similarity(x[i], x[j], dim=0)) for j in others}
        for j in sorted(others, key=lambda j: (-cosine[j], j))[:k]:
            graph[i, j] = max(cosine[j], 0.0) if weighted else 1.0
    degree = graph.sum(dim=1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-30).rsqrt(), 0.0)
    return scale[:, None] * graph * scale


class ModelContract:
    cls: Any
    options: ClassVar[dict[str, Any]] = {}
    """Further arguments of the model under test."""
    in_no_term: ClassVar[set[str]] = set()
    """Parameters that no term reaches when there is one modality."""

    def make(self, num_modalities=2, **kwargs):
        return build(self.cls, num_modalities, **{**self.options, **kwargs})

    @pytest.mark.parametrize('num_modalities', [1, 2, 3])
    def test_returns_vectors_of_both_sides_fused_and_per_modality(self, num_modalities):
        output = self.make(num_modalities)(operators())
        assert isinstance(output, TeacherOutput)
        assert (
            list(output.modality_x_dict) == ['image', 'text', 'audio'][:num_modalities]
        )
        for x_dict in (output.x_dict, *output.modality_x_dict.values()):
            assert set(x_dict) == {'user', 'item'}
            assert x_dict['user'].size(0) == 5
            assert x_dict['item'].size(0) == 7
            assert x_dict['user'].size(1) == x_dict['item'].size(1)
            assert all_finite(x_dict.values())

    def test_eval_is_deterministic_and_draws_no_random_number(self):
        model = self.make().eval()
        before = torch.get_rng_state()
        first, second = model(operators()), model(operators())
        assert torch.equal(torch.get_rng_state(), before)
        for a, b in zip(first.x_dict.values(), second.x_dict.values(), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize('num_modalities', [1, 3])
    def test_gradients_reach_every_parameter(self, num_modalities):
        model = self.make(num_modalities).train()
        terms = model.losses(model(operators()), BATCH)
        sum(terms.values()).backward()
        idle = {
            name
            for name, p in model.named_parameters()
            if p.grad is None or bool((p.grad.abs() < 1e-9).all())
        }
        expected = self.in_no_term if num_modalities == 1 else set()
        assert idle == expected
        assert all(
            p.grad.isfinite().all() for p in model.parameters() if p.grad is not None
        )

    def test_terms_are_finite_scalars_with_a_weight_each(self):
        model = self.make().train()
        output = model(operators())
        alone = Triplets(*(x[:1] for x in BATCH))
        for batch in (BATCH, alone):
            terms = model.losses(output, batch)
            assert list(terms) == list(model.loss_weights)
            assert all(x.shape == () and x.isfinite() for x in terms.values())

    def test_state_holds_no_features_and_gives_the_output_back(self):
        model, other = self.make().eval(), self.make(seed=9).eval()
        state = model.state_dict()
        assert set(state) == {name for name, _ in model.named_parameters()}
        other.load_state_dict(state)
        ours, theirs = model(operators()).x_dict, other(operators()).x_dict
        torch.testing.assert_close(ours, theirs)

    def test_a_reset_starts_every_parameter_anew(self):
        model = self.make()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(7.0)
        model.reset_parameters()
        assert all(p.abs().max() < 5 for p in model.parameters())
        first = [p.detach().clone() for p in model.parameters()]
        model.reset_parameters()
        again = zip(first, model.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in again)

    def test_node_types_may_have_any_name(self):
        names = {'user': 'reader', 'item': 'book'}
        edge_type = ('reader', 'borrows', 'book')
        torch.manual_seed(0)
        x_dict = {m: {'book': x['item']} for m, x in item_x_dict().items()}
        model = self.cls(
            {'book': 7, 'reader': 5, 'shelf': 2},
            x_dict,
            edge_type=edge_type,
            embedding_dim=WIDTH,
            **self.options,
        ).eval()
        expected = self.make().eval()
        model.load_state_dict(
            {
                name.replace('user', 'reader').replace('item', 'book')
                if 'tables' in name
                else name: value
                for name, value in expected.state_dict().items()
            }
        )
        weight = weights()[USER_ITEM]
        out = model(
            {
                edge_type: EDGE_INDEX,
                ('book', 'lent_to', 'reader'): EDGE_INDEX.flip([0]),
            },
            {edge_type: weight, ('book', 'lent_to', 'reader'): weight},
        )
        reference = expected(operators())
        for ours, theirs in names.items():
            torch.testing.assert_close(out.x_dict[theirs], reference.x_dict[ours])

    def test_the_order_of_edges_does_not_matter(self):
        model, order = self.make().eval(), torch.tensor([5, 2, 0, 4, 1, 3])
        out = model(
            {key: index[:, order] for key, index in edges().items()},
            {key: weight[order] for key, weight in weights().items()},
        )
        torch.testing.assert_close(out.x_dict, model(operators()).x_dict)

    def test_a_copy_is_independent_and_equal(self):
        model = self.make().train()
        model(operators())
        other = copy.deepcopy(model).eval()
        before = model.eval()(operators()).x_dict
        torch.testing.assert_close(other(operators()).x_dict, before)
        with torch.no_grad():
            other.embeddings.tables['user'].zero_()
        torch.testing.assert_close(model(operators()).x_dict, before)

    def test_absent_features_of_an_item_leave_everything_finite(self):
        x_dict = item_x_dict()
        x_dict['image']['item'][3] = 0.0
        x_dict['text']['item'][:] = 0.0
        model = self.make(modality_x_dict=x_dict).train()
        output = model(operators())
        sum(model.losses(output, BATCH).values()).backward()
        assert all_finite(output.x_dict.values())
        assert all(
            p.grad.isfinite().all() for p in model.parameters() if p.grad is not None
        )

    def test_is_a_teacher_for_the_default_objective(self):
        targets = soft_targets(self.make(), operators())
        for x_dict in (targets.x_dict, *targets.modality_x_dict.values()):
            assert all(
                x.isfinite().all() and not x.requires_grad for x in x_dict.values()
            )
        for loss in promptmm_losses():
            loss.setup(targets, width=3)

    def test_makes_no_matrix_of_all_pairs(self):
        # Neighbors are searched in blocks of 1,024 rows: fewer than all.
        num_nodes = {'user': 2500, 'item': 3000}
        largest = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                nonlocal largest
                out = func(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor) and out.layout == torch.strided:
                    largest = max(largest, out.numel())
                return out

        g = torch.Generator().manual_seed(0)
        edge_index = torch.stack(
            [torch.randint(n, (4000,), generator=g) for n in num_nodes.values()]
        )
        adj_dict = csr_pair_dict(
            {USER_ITEM: edge_index, ('item', 'rev', 'user'): edge_index.flip([0])},
            num_nodes_dict=num_nodes,
        )
        with Watch():
            model = self.cls(
                num_nodes, item_x_dict(1, 3000), edge_type=USER_ITEM, embedding_dim=4
            ).train()
            sum(model.losses(model(adj_dict), BATCH).values()).backward()
        assert largest <= 1024 * 3000

    def test_trains_with_its_terms_and_a_resumed_run_is_the_same(self, tmp_path):
        split = split_per_user(make_synthetic_dataset(60, 40, 4, seed=0))

        def run(run_dir, epochs, resume=False):
            torch.manual_seed(0)
            model = self.cls(
                split.train.num_nodes_dict,
                modality_x_dict(split.train),
                edge_type=INTERACTS,
                embedding_dim=8,
            )
            history = training.train(
                model,
                split,
                config=TrainingConfig(
                    epochs=epochs,
                    patience=99,
                    run_dir=tmp_path / run_dir,
                    resume=resume,
                    progress=False,
                    learning_rate=0.01,
                    batch_size=128,
                ),
            )
            return model, history

        straight, history = run('a', 4)
        run('b', 2)
        resumed, _ = run('b', 4, resume=True)
        for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b)
        bpr = [record['losses']['bpr'] for record in history.records]
        assert bpr[-1] < bpr[0]
        assert not math.isclose(bpr[0], math.log(2), rel_tol=1e-9)

    def test_errors_of_sides_features_and_edges(self):
        with pytest.raises(
            ValueError, match="'modality_x_dict' must have at least one"
        ):
            self.make(modality_x_dict={})
        with pytest.raises(ValueError, match='must have one row per node'):
            self.make(modality_x_dict={'image': {'item': torch.ones(3, 2)}})
        with pytest.raises(ValueError, match="must have features of 'item'"):
            self.make(modality_x_dict={'image': {'user': torch.ones(5, 2)}})
        with pytest.raises(ValueError, match="'edge_type' must connect two different"):
            self.cls(NUM_NODES, item_x_dict(), edge_type=('user', 'likes', 'shop'))
        with pytest.raises(ValueError, match="'edge_index_dict' must have"):
            self.make()({('item', 'x', 'user'): EDGE_INDEX.flip([0])})
        with pytest.raises(ValueError, match="'num_layers' must be positive"):
            self.make(num_layers=0)
        with pytest.raises(ValueError, match="'embedding_dim' must be positive"):
            self.cls(NUM_NODES, item_x_dict(), edge_type=USER_ITEM, embedding_dim=0)
