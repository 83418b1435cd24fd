import pytest
import torch
from safetensors.torch import load_file, save_file

from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import (
    PromptedEncoder,
    SoftPrompt,
    TokenPrompt,
    load_prompt,
    save_prompt,
)
from tests.nn.graphs import NUM_NODES, edges, features, weights


def make_start(seed=0, width=3):
    return {
        'user': features(width, seed, num=5),
        'item': features(width, seed + 1, num=7),
    }


def make_teacher(seed=0, **kwargs):
    torch.manual_seed(seed)
    x = {'image': {'item': features(6, seed=9)}}
    start = make_start(seed)
    return PromptMM(
        NUM_NODES, x, prompt_start_dict=start, embedding_dim=4, **kwargs
    ).eval()


def test_soft_prompt_round_trip_brings_its_starting_point(tmp_path):
    path = tmp_path / 'prompt.safetensors'
    source, target = SoftPrompt(make_start(), 4), SoftPrompt(make_start(5), 4)
    save_prompt(path, source)
    load_prompt(path, target)
    torch.testing.assert_close(target(), source(), rtol=0, atol=0)
    assert torch.equal(target.start('item'), make_start()['item'])


@pytest.mark.parametrize('num_tokens', [1, 3])
def test_teacher_with_a_loaded_prompt_is_that_teacher(tmp_path, num_tokens):
    path = tmp_path / 'prompt.safetensors'
    source = make_teacher(num_prompt_tokens=num_tokens)
    target = make_teacher(seed=1, num_prompt_tokens=num_tokens)
    assert not torch.equal(target.prompt.start('item'), source.prompt.start('item'))
    target.embeddings.load_state_dict(source.embeddings.state_dict())
    target.encoders.load_state_dict(source.encoders.state_dict())
    save_prompt(path, source)
    load_prompt(path, target)
    # Also what is computed once from the other starting point.
    torch.testing.assert_close(target(edges(), weights()), source(edges(), weights()))
    assert target.prompt.start('item').abs().sum() > 0


def test_named_prompts_are_saved_and_loaded_one_by_one(tmp_path):
    path = tmp_path / 'night.safetensors'
    source, target = (PromptedEncoder(torch.nn.Linear(6, 2), 6) for _ in range(2))
    for model in (source, target):
        model.add_prompt('night')
    before = target.prompt.tokens.clone()
    save_prompt(path, source, 'night')
    load_prompt(path, target, 'night')
    assert torch.equal(
        target.get_prompt('night').tokens, source.get_prompt('night').tokens
    )
    assert torch.equal(target.prompt.tokens, before)


def test_a_teachers_prompt_aside_is_loaded_before_it_is_used(tmp_path):
    path = tmp_path / 'prompt.safetensors'
    source, target = make_teacher(), make_teacher(seed=1)
    target.embeddings.load_state_dict(source.embeddings.state_dict())
    target.encoders.load_state_dict(source.encoders.state_dict())
    target.add_prompt('other')
    before = target(edges(), weights())
    save_prompt(path, source)
    load_prompt(path, target, 'other')
    torch.testing.assert_close(target(edges(), weights()), before, rtol=0, atol=0)
    target.set_prompt('other')
    torch.testing.assert_close(target(edges(), weights()), source(edges(), weights()))


def test_a_prompt_that_was_added_is_loaded_while_it_is_used(tmp_path):
    path = tmp_path / 'prompt.safetensors'
    source, target = make_teacher(), make_teacher(seed=1)
    target.embeddings.load_state_dict(source.embeddings.state_dict())
    target.encoders.load_state_dict(source.encoders.state_dict())
    target.add_prompt('other')
    target.set_prompt('other')
    save_prompt(path, source)
    load_prompt(path, target)
    torch.testing.assert_close(target(edges(), weights()), source(edges(), weights()))


def test_the_file_holds_the_prompt_alone_and_no_pickle(tmp_path):
    path = tmp_path / 'deep' / 'prompt.safetensors'
    teacher = make_teacher()
    save_prompt(path, teacher)
    tensors = load_file(path)  # Refuses anything but safetensors.
    assert set(tensors) == set(teacher.prompt.state_dict())
    saved = sum(x.numel() * x.element_size() for x in tensors.values())
    assert teacher.prompt_kilobytes == saved / 1000
    assert saved < path.stat().st_size < saved + 2000
    assert [file.name for file in path.parent.iterdir()] == ['prompt.safetensors']


def test_a_crash_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, TokenPrompt(3, init=torch.ones(4, 3)))

    def crash(tensors, filename, metadata):
        save_file(tensors, filename, metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr('safetensors.torch.save_file', crash)
    with pytest.raises(KeyboardInterrupt):
        save_prompt(path, TokenPrompt(3, init=torch.zeros(4, 3)))
    assert [file.name for file in tmp_path.iterdir()] == ['prompt.safetensors']
    assert (load_file(path)['tokens'] == 1).all()


def test_loaded_values_outlive_the_file_and_keep_the_dtype(tmp_path):
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, TokenPrompt(3, init=torch.ones(4, 3)))
    target = TokenPrompt(3).double()
    load_prompt(path, target)
    save_prompt(path, TokenPrompt(3, init=torch.zeros(4, 3)))
    assert target.tokens.dtype == torch.double
    assert (target.tokens == 1).all()


@pytest.mark.parametrize(
    ('target', 'match'),
    [
        (SoftPrompt(make_start(), 5), r'out_channels=5 \(got out_channels=4'),
        (SoftPrompt(make_start(), 4, num_tokens=2), r'num_tokens=2 \(got num_tokens=1'),
        (SoftPrompt(make_start(width=2), 4), r"'user': \[5, 2\].*'user': \[5, 3\]"),
        (SoftPrompt({'shop': features(3)}, 4), r"'shop': .*got node_types=.*'user'"),
        (TokenPrompt(4), r"class='TokenPrompt' \(got class='SoftPrompt'"),
    ],
)
def test_a_prompt_of_another_class_or_size_is_an_error(tmp_path, target, match):
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, SoftPrompt(make_start(), 4))
    before = {key: x.clone() for key, x in target.state_dict().items()}
    with pytest.raises(ValueError, match=rf"'path' must be a prompt with .*{match}"):
        load_prompt(path, target)
    torch.testing.assert_close(dict(target.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('target', 'match'),
    [
        (TokenPrompt(5), r'in_channels=5 \(got in_channels=3'),
        (TokenPrompt(3, 2), r'num_tokens=2 \(got num_tokens=4'),
        (TokenPrompt(3, conditioned=True), r'conditioned=True \(got conditioned=False'),
    ],
)
def test_tokens_of_another_size_are_an_error(tmp_path, target, match):
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, TokenPrompt(3))
    with pytest.raises(ValueError, match=match):
        load_prompt(path, target)


def test_errors_of_files(tmp_path):
    path, prompt = tmp_path / 'prompt.safetensors', TokenPrompt(3)
    with pytest.raises(FileNotFoundError, match="'path' must be a saved prompt"):
        load_prompt(path, prompt)
    save_file({'tokens': torch.ones(4, 3)}, path)
    with pytest.raises(ValueError, match=r'must be a saved prompt .*of format None'):
        load_prompt(path, prompt)
    save_prompt(path, prompt)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match='truncated or no safetensors file'):
        load_prompt(path, prompt)


def test_a_file_without_one_of_the_tensors_is_an_error(tmp_path):
    path, prompt = tmp_path / 'prompt.safetensors', TokenPrompt(3)
    del prompt._parameters['tokens']
    save_prompt(path, prompt)
    with pytest.raises(
        ValueError, match=r"must have the tensors .*'tokens'.*\(got \{\}"
    ):
        load_prompt(path, TokenPrompt(3))


def test_errors_of_names_and_modules(tmp_path):
    path = tmp_path / 'prompt.safetensors'
    model = PromptedEncoder(torch.nn.Linear(6, 2), 6)
    for use in (save_prompt, load_prompt):
        with pytest.raises(ValueError, match=r"'name' .*\['default'\] \(got 'night'"):
            use(path, model, 'night')
        with pytest.raises(ValueError, match=r"'name' must be left out.*'night'"):
            use(path, model.prompt, 'night')
        with pytest.raises(TypeError, match=r"'module' must be a prompt.*'Linear'"):
            use(path, model.encoder)
    teacher = PromptMM(NUM_NODES, {}, embedding_dim=4)
    with pytest.raises(ValueError, match=r"'name' .*prompts \[\] \(got None"):
        save_prompt(path, teacher)
    assert not path.exists()
