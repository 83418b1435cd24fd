import numpy as np
import torch

from promptmm_pyg.models.smore import SMORE
from tests.models.setting import (
    BATCH,
    dense_knn,
    dense_smooth,
    make,
    make_features,
    naive_bpr,
    naive_contrast,
    naive_l2,
)
from tests.nn.graphs import (
    dense,
    edges,
    weights,
)

K, LAYERS = 3, 2
OPTIONS = {'num_neighbors': K, 'num_item_layers': 2, 'num_layers': LAYERS}


def naive_spectral(model, reduced):
    """The filters as a sum over frequencies, by NumPy's complex transform."""
    width = reduced[0].size(-1)

    def full(weight):
        # A real signal's filter is mirrored, and real at the two ends.
        half = torch.view_as_complex(weight).detach().numpy().astype(np.complex128)
        half[0] = half[0].real
        if width % 2 == 0:
            half[-1] = half[-1].real
        return np.concatenate([half, half[1 : (width + 1) // 2][::-1].conj()])

    spectra = [np.fft.fft(x.detach().numpy(), norm='ortho') for x in reduced]
    filters = [full(w) for w in [*model.fusion.filters.values()]]
    single = [s * w for s, w in zip(spectra, filters, strict=True)]
    joint = np.prod(spectra, axis=0) * full(model.fusion.fusion_filter)
    back = [np.fft.ifft(s, norm='ortho') for s in [*single, joint]]
    assert max(np.abs(x.imag).max() for x in back) < 1e-6
    return [torch.from_numpy(x.real).float() for x in back]


def naive_parts(model):
    """The content and the side part, everything in full."""
    x = {m: v['item'] for m, v in make_features().items()}
    lins = [model.features.lins[f'lin_{m}'] for m in x]
    reduced = [lin(v) for lin, v in zip(lins, x.values(), strict=True)]
    graphs = [dense_knn(v, K) for v in x.values()]
    graphs.append(torch.stack(graphs).amax(dim=0))
    ids = model.embeddings()
    A, items = dense(), []
    for h, S, gate in zip(
        naive_spectral(model, reduced), graphs, model.gates, strict=True
    ):
        items.append(S @ S @ (ids['item'] * gate(h).sigmoid()))
    content = dict(
        zip(
            ('user', 'item'),
            dense_smooth(ids['user'], ids['item'], LAYERS),
            strict=True,
        )
    )
    side = {}
    for key, views in (('item', items), ('user', [A @ v for v in items])):
        fused = views[-1]
        total = model.preferences[-1](content[key]).sigmoid() * fused
        for place in range(len(x)):
            want = model.preferences[place](content[key]).sigmoid()
            share = model.shares[place](fused).softmax(dim=-1)
            total = total + want * share * views[place]
        side[key] = total / (len(x) + 1)
    return content, side


def test_agrees_with_its_formulas_written_with_dense_matrices():
    for width in (4, 5):  # The spectrum of an even width has another end.
        model = make(SMORE, embedding_dim=width, **OPTIONS)
        content, side = naive_parts(model)
        out = model(edges(), weights())
        for key in ('user', 'item'):
            torch.testing.assert_close(
                out.x_dict[key], content[key] + side[key], atol=1e-5, rtol=1e-5
            )
            views = [out.modality_x_dict[m][key] for m in make_features()]
            torch.testing.assert_close(sum(views) / 4, side[key], atol=1e-5, rtol=1e-5)


def test_terms_equal_loops_over_the_batch():
    model = make(SMORE, **OPTIONS).eval()
    out, batch = model(edges(), weights()), BATCH
    content, side = naive_parts(model)
    terms = model.losses(out, batch)
    torch.testing.assert_close(terms['bpr'], naive_bpr(out.x_dict, batch))
    torch.testing.assert_close(terms['l2'], naive_l2(out.x_dict, batch))
    users, items = batch.user, batch.positive
    expected = naive_contrast(
        side['user'][users], content['user'][users], 0.2
    ) + naive_contrast(side['item'][items], content['item'][items], 0.2)
    torch.testing.assert_close(terms['contrast'], expected, atol=1e-4, rtol=1e-4)


def test_an_item_without_interactions_has_vectors_of_its_neighbors():
    out = make(SMORE, **OPTIONS).eval()(edges(), weights())
    assert out.modality_x_dict['text']['item'][6].abs().sum() > 0
    assert (out.modality_x_dict['text']['user'][4] == 0).all()
