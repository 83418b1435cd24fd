import pytest
import torch

from promptmm_pyg.nn import SoftPrompt, prompt_statistics
from tests.nn.graphs import features


def make_prompt(width=4):
    start_dict = {'user': features(3, num=5), 'item': features(3, seed=1)}
    return SoftPrompt(start_dict, width), start_dict


def test_is_one_linear_map_per_node_type():
    prompt, start_dict = make_prompt()
    out = prompt()
    for key, start in start_dict.items():
        lin = prompt.lins[key]
        torch.testing.assert_close(out[key], start @ lin.weight.t() + lin.bias)
    assert not torch.equal(prompt.lins['user'].weight, prompt.lins['item'].weight)


def test_recall_is_the_transposed_prompt_times_the_features():
    prompt, start_dict = make_prompt()
    prompt = prompt.double()
    x = features(6, seed=2).double()
    statistics = prompt_statistics(x, start_dict['item'].double())
    torch.testing.assert_close(
        prompt.recall('item', statistics), prompt()['item'].t() @ x
    )


def test_start_is_saved_but_not_trained():
    prompt, start_dict = make_prompt()
    assert 'start_item' in prompt.state_dict()
    assert all('start' not in name for name, _ in prompt.named_parameters())
    start_dict['item'].zero_()  # No memory is shared with the caller.
    assert prompt.start('item').abs().sum() > 0


def test_errors_and_repr():
    prompt, start_dict = make_prompt()
    assert str(prompt) == "SoftPrompt(['item', 'user'], out_channels=4)"
    with pytest.raises(ValueError, match='at least one node type'):
        SoftPrompt({}, 4)
    start_dict['item'][0, 0] = float('nan')
    with pytest.raises(ValueError, match=r"finite \[N, P\] tensors.*'item'"):
        SoftPrompt(start_dict, 4)
