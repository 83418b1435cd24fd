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


def test_several_tokens_agree_with_a_loop_over_nodes_and_tokens():
    torch.manual_seed(0)
    start_dict = {'user': features(3, num=5), 'item': features(3, seed=1)}
    prompt = SoftPrompt(start_dict, 4, num_tokens=3)
    out = prompt()
    for key, start in start_dict.items():
        lin, gate = prompt.lins[key], prompt.gates[key]
        maps, biases = lin.weight.view(3, 4, 3), lin.bias.view(3, 4)
        for i, h in enumerate(start):
            share = torch.softmax(gate.weight @ h + gate.bias, dim=0)
            expected = sum(share[t] * (maps[t] @ h + biases[t]) for t in range(3))
            torch.testing.assert_close(out[key][i], expected)


def test_one_token_has_no_gate_and_the_state_it_always_had():
    prompt, _ = make_prompt()
    names = {'lins.item.bias', 'lins.item.weight', 'lins.user.bias', 'lins.user.weight'}
    assert set(prompt.state_dict()) == names | {'start_item', 'start_user'}


def test_a_start_of_ones_makes_the_prompt_static():
    x = features(6, seed=2)
    ones = {'item': torch.ones(7, 1)}
    for num_tokens in (1, 3):
        out = SoftPrompt(ones, 4, num_tokens)()['item']
        torch.testing.assert_close(out, out[:1].expand(7, 4))
    prompt = SoftPrompt(ones, 4)
    statistics = prompt_statistics(x, ones['item'])
    torch.testing.assert_close(
        prompt.recall('item', statistics), prompt()['item'].t() @ x
    )
    # With a start of content, every node has its own.
    conditioned = make_prompt()[0]()['item']
    assert not torch.allclose(conditioned[0], conditioned[1])


def test_parameters_and_kilobytes_by_hand():
    start_dict = {'user': features(3, num=5), 'item': features(3, seed=1)}
    first, three = SoftPrompt(start_dict, 4), SoftPrompt(start_dict, 4, num_tokens=3)
    assert first.num_parameters == 2 * (3 * 4 + 4)
    assert three.num_parameters == 2 * (3 * 12 + 12 + 3 * 3 + 3)
    assert first.kilobytes == (first.num_parameters + 5 * 3 + 7 * 3) * 4 / 1000


def test_reset_redraws_maps_and_gates():
    prompt = SoftPrompt({'item': features(3)}, 4, num_tokens=2)
    before = {key: x.clone() for key, x in prompt.named_parameters()}
    prompt.reset_parameters()
    for key, x in prompt.named_parameters():
        assert not torch.equal(x, before[key]), key
    assert torch.equal(prompt.start('item'), features(3))


def test_errors_and_repr():
    prompt, start_dict = make_prompt()
    assert str(prompt) == "SoftPrompt(['item', 'user'], out_channels=4)"
    with pytest.raises(ValueError, match='at least one node type'):
        SoftPrompt({}, 4)
    start_dict['item'][0, 0] = float('nan')
    with pytest.raises(ValueError, match=r"finite tensors \[N, P\].*'item'"):
        SoftPrompt(start_dict, 4)
    several = SoftPrompt({'item': features(3)}, 4, num_tokens=2)
    assert str(several) == "SoftPrompt(['item'], out_channels=4, num_tokens=2)"
    with pytest.raises(ValueError, match="'num_tokens' must be positive"):
        SoftPrompt({'item': features(3)}, 4, num_tokens=0)
    statistics = prompt_statistics(features(6), features(3))
    with pytest.raises(ValueError, match=r"'num_tokens' must be 1 .*\(got 2\)"):
        several.recall('item', statistics)
