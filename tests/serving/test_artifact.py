"""The saved folder: what it contains, and invalid folders that are refused."""

import hashlib
import json
import os
import re
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from promptmm_pyg.ranking import ApproximateItems
from promptmm_pyg.serving import Recommender, _artifact, _texts


@pytest.fixture
def folder(synthetic, tmp_path):
    model, features = synthetic()
    model.fit_feature_mapper(features)
    model.add_items([500], {'text': features['text'][:1]}, titles={500: 'Ünew'})
    model.save(tmp_path / 'model', card={'metrics': {'Recall@20': 0.25}})
    return tmp_path / 'model'


def update_checksums(folder):
    """Writes a configuration that fits the changed files, as an attacker would."""
    config = json.loads((folder / 'config.json').read_text())
    for name in config['files']:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        config['files'][name] = {'bytes': len(content), 'sha256': digest}
    (folder / 'config.json').write_text(json.dumps(config))


def test_everything_comes_back(folder, synthetic):
    model, features = synthetic()
    model.fit_feature_mapper(features)
    again = Recommender.load(folder)
    assert again.item_ids == [*model.item_ids, 500]
    assert again.num_added == 1
    assert again.titles == {500: 'Ünew'}
    torch.testing.assert_close(
        again.feature_mapper(features), model.feature_mapper(features)
    )
    again.add_items(['newer'], {'image': features['image'][:1]})
    assert again.recommend('u3', k=1, allow=['newer']).ids.tolist() == ['newer']


def test_the_card_has_facts_metrics_and_general_words(folder):
    card = json.loads((folder / 'card.json').read_text())
    about = card['about']
    counts = ('users', 'items', 'items_added_from_features', 'interactions', 'channels')
    assert [about[key] for key in counts] == [40, 61, 1, 320, 4]
    assert about['precision'] == 'float32'
    assert set(about['versions']) == {
        'python',
        'promptmm_pyg',
        'torch',
        'numpy',
        'safetensors',
    }
    assert about['created'].endswith('+00:00')
    assert set(about['feature_mapper']) == {'text + image', 'text', 'image'}
    assert card['metrics'] == {'Recall@20': 0.25}
    assert 'the items they interacted with' in card['intended_use']
    assert 'after training are not reflected' in card['limits']
    assert Recommender.load(folder).card == card


def test_the_page_contains_the_card(folder):
    page = (folder / 'README.md').read_text(encoding='utf-8')
    assert page.startswith('# Recommender\n\n## Description\n\nRanks items')
    assert '\n## Intended use\n' in page
    assert '\n## Metrics\n\n- Recall@20: 0.25\n' in page
    assert '\n- items added from features: 1\n' in page
    assert '\n  - torch: ' in page


def test_sections_stay_and_facts_are_updated(folder, tmp_path):
    model = Recommender.load(folder)
    model.feature_mapper = None
    model.save(tmp_path / 'again', card={'name': 'Ours', 'data': ['a', {'b': 1}]})
    card = Recommender.load(tmp_path / 'again').card
    assert card['metrics'] == {'Recall@20': 0.25}
    assert card['name'] == 'Ours'
    assert 'feature_mapper' not in card['about']
    page = (tmp_path / 'again' / 'README.md').read_text()
    assert '## Data\n\n- a\n- {"b": 1}\n' in page


@pytest.mark.parametrize('value', [object(), float('nan'), {1, 2}, torch.ones(1)])
def test_a_card_of_other_than_json_values_is_refused(folder, tmp_path, value):
    model = Recommender.load(folder)
    with pytest.raises(ValueError, match="'card' must contain text, finite numbers"):
        model.save(tmp_path / 'other', card={'metrics': value})
    assert not (tmp_path / 'other').exists()


def test_the_page_may_be_edited(folder):
    (folder / 'README.md').write_text('Edited')
    assert Recommender.load(folder).num_items == 61


def test_serving_requires_torch_numpy_and_safetensors_only(folder, tmp_path):
    blocked = ['torch_geometric', 'pandas', 'scipy', 'pyarrow', 'sklearn', 'faiss']
    code = (
        'import sys\n'
        f'for name in {blocked}: sys.modules[name] = None\n'
        'import torch\n'
        'from promptmm_pyg.serving import Recommender, export_embeddings\n'
        f'model = Recommender.load({str(folder)!r})\n'
        "model.add_items([501], {'text': torch.ones(1, 6)})\n"
        "lists = [model.recommend('u0', 3), model.similar_items(501, 3)]\n"
        'lists.append(model.recommend_from_history([501, 101], 3))\n'
        f'export_embeddings(model, {str(tmp_path / "x.npz")!r})\n'
        f'model.save({str(tmp_path / "again")!r})\n'
        f'print(sum(map(len, (x.ids for x in lists))))\n'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == '9'


def test_nothing_written_is_a_pickle(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        'README.md',
        'card.json',
        'config.json',
        'model.safetensors',
    ]
    for name in ('card.json', 'config.json'):
        json.loads((folder / name).read_text())
    assert 'item_ids.text' in load_file(folder / 'model.safetensors')


def test_a_file_too_large_is_refused_unread(folder, monkeypatch):
    size = (folder / 'model.safetensors').stat().st_size
    assert Recommender.load(folder, max_bytes=size).num_items == 61
    with pytest.raises(ValueError, match=rf'safetensors.*at most.*\(got {size}\)'):
        Recommender.load(folder, max_bytes=size - 1)
    with (folder / 'config.json').open('ab') as file:
        file.truncate(2**40)  # A hole: it takes no space on the disk.
    with pytest.raises(ValueError, match=r'config\.json.*at most 65536 bytes'):
        Recommender.load(folder)


def test_large_tables_stay_on_the_disk(folder, synthetic, monkeypatch):
    model = Recommender.load(folder, verify=True)
    monkeypatch.setattr(_artifact, 'VERIFIED', 0)
    monkeypatch.setattr(hashlib, 'file_digest', None)
    monkeypatch.setattr(_texts.Texts, 'compare_next', None)
    mapped = Recommender.load(folder)
    monkeypatch.undo()
    lists, expected = (x.recommend(['u3', 'u0'], 5) for x in (mapped, model))
    assert lists.ids.tolist() == expected.ids.tolist()
    assert mapped.titles == model.titles
    path = folder / 'model.safetensors'
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r'model\.safetensors.*its checksum differs'):
        Recommender.load(folder)
    assert Recommender.load(folder, verify=False).num_items == 61
    path.write_bytes(bytes(content[:-1]))
    with pytest.raises(ValueError, match=r'model\.safetensors.*its size differs'):
        Recommender.load(folder, verify=False)


def test_a_saved_index_is_loaded_and_that_of_other_items_is_refused(folder, tmp_path):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model = Recommender.load(folder)
    index = model.index_items(num_lists=9, nprobe=2)
    model.save_index(folder, index)
    again = Recommender.load(folder)
    loaded = again.load_index(folder, nprobe=2)
    assert repr(loaded) == repr(index) == 'ApproximateItems(61, num_lists=9, nprobe=2)'
    users = again.user_ids
    lists, expected = (
        again.recommend(users, index=loaded),
        model.recommend(users, index=index),
    )
    assert lists.ids.tolist() == expected.ids.tolist()
    with pytest.raises(ValueError, match="'index' must be built from the current"):
        model.save_index(tmp_path, loaded)
    again.add_items(['newer'], {'image': torch.ones(1, 8)})
    with pytest.raises(ValueError, match=r'be the index of these items.*--save-index'):
        again.load_index(folder)
    (folder / 'index.safetensors').write_bytes(b'{')
    with pytest.raises(ValueError, match=r'index\.safetensors.*save it again'):
        model.load_index(folder)
    with pytest.raises(FileNotFoundError, match='must be an index of items'):
        model.load_index(tmp_path)
    state = index.state()
    wrong = {**state, 'label': state['label'] + 9}
    for other in ({}, {**state, 'label': state['label'][1:]}, wrong):
        with pytest.raises(ValueError, match='index of 61 items of width 4'):
            ApproximateItems.from_state(model.item_x, other)


def test_a_file_of_another_size_is_refused_unread(folder, monkeypatch):
    with (folder / 'card.json').open('ab') as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match=r'card\.json.*its size differs'):
        Recommender.load(folder)


@pytest.mark.parametrize('name', ['model.safetensors', 'card.json', 'config.json'])
def test_a_link_to_outside_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / 'elsewhere')
    (folder / name).symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match=rf'{name}.*be in its folder \(got a link'):
        Recommender.load(folder)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / 'link').symlink_to(folder, target_is_directory=True)
    assert Recommender.load(tmp_path / 'link').num_items == 61


@pytest.mark.parametrize('name', ['../elsewhere', '/etc/passwd', 'more.bin'])
def test_a_configuration_cannot_name_other_files(folder, name):
    config = json.loads((folder / 'config.json').read_text())
    config['files'][name] = {'bytes': 1, 'sha256': 'x'}
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r'config\.json.*its files are'):
        Recommender.load(folder)


@pytest.mark.parametrize('size', ['Infinity', '"many"', '[]', '-1'])
def test_an_invalid_size_is_refused(folder, size):
    text = (folder / 'config.json').read_text()
    (folder / 'config.json').write_text(
        re.sub(r'"bytes": \d+', f'"bytes": {size}', text)
    )
    with pytest.raises(ValueError, match=r'configuration of a|its size differs'):
        Recommender.load(folder)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='the system has no pipes')
def test_a_pipe_is_refused_without_waiting(folder):
    (folder / 'card.json').unlink()
    os.mkfifo(folder / 'card.json')
    with pytest.raises(ValueError, match=r'card\.json.*must be a file'):
        Recommender.load(folder)


@pytest.mark.parametrize('name', ['card.json', 'config.json'])
def test_deeply_nested_json_is_refused(folder, name):
    (folder / name).write_text('[' * 60_000)
    if name != 'config.json':
        update_checksums(folder)
    with pytest.raises(ValueError, match=rf'{name}.*nested too deeply'):
        Recommender.load(folder)


@pytest.mark.parametrize('content', ['[]', '3', 'null', '"x"'])
def test_json_other_than_an_object_is_refused(folder, content):
    (folder / 'card.json').write_text(content)
    update_checksums(folder)
    with pytest.raises(ValueError, match=r'card\.json.*must contain an object'):
        Recommender.load(folder)
    (folder / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=r'config\.json.*be the configuration of a'):
        Recommender.load(folder)


@pytest.mark.parametrize('content', ['{', '\x80\x04', '{"a": 1}}'])
def test_invalid_json_is_refused(folder, content):
    (folder / 'card.json').write_text(content, encoding='latin-1')
    update_checksums(folder)
    with pytest.raises(ValueError, match=r'card\.json.*must be JSON'):
        Recommender.load(folder)


def rewrite(folder, tensors=(), state=()):
    """Replaces tensors and metadata, with checksums that fit."""
    path = folder / 'model.safetensors'
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    everything = {**load_file(path), **dict(tensors)}
    everything = {k: x.contiguous() for k, x in everything.items() if x is not None}
    metadata |= {key: json.dumps(value) for key, value in dict(state).items()}
    save_file(everything, path, metadata)
    update_checksums(folder)


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        ({'num_added': 62}, 'got 62 added items'),
        ({'num_added': 'x'}, "got 'x' added items"),
        (
            {'feature_mapper': {'channels': [], 'maps': [[[], 10**400, 0, 0]]}},
            'feature',
        ),
        ({'feature_mapper': {}}, 'a part of the feature mapper is missing'),
        ({'feature_mapper': {'channels': [[[], 1]], 'maps': []}}, 'feature mapper'),
        ({'feature_mapper': {'channels': [['a']], 'maps': []}}, 'dictionary update'),
    ],
)
def test_metadata_that_do_not_match_are_refused(folder, state, message):
    rewrite(folder, state=state)
    with pytest.raises(ValueError, match=rf'must contain a recommender.*{message}'):
        Recommender.load(folder)


def test_metadata_that_are_no_json_are_refused(folder):
    path = folder / 'model.safetensors'
    save_file(load_file(path), path, {'num_added': '{'})
    update_checksums(folder)
    with pytest.raises(ValueError, match=r'model\.safetensors.*invalid metadata'):
        Recommender.load(folder)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('user_x', lambda x: x.long(), "'user_x' is not a floating point matrix"),
        ('item_x', lambda x: x[0], "'item_x' is not a floating point matrix"),
        ('item_x', lambda x: x * float('nan'), "'item_x' must be finite"),
        ('item_x', lambda x: x[:, :2], 'must be matrices of one width'),
        ('user_x', lambda x: None, "there is no tensor 'user_x'"),
        ('user_x', lambda x: x[1:], 'not compressed rows of 39 users and 61'),
        ('seen_col', lambda x: x - 60, 'not compressed rows of 40 users and 61'),
        ('seen_col', lambda x: x + 55, 'not compressed rows'),
        ('seen_col', lambda x: x[:-1], 'not compressed rows'),
        ('seen_col', lambda x: x.int(), 'not compressed rows'),
        ('seen_rowptr', lambda x: x.flip(0), 'not compressed rows'),
        ('seen_rowptr', lambda x: x[:-1], 'not compressed rows'),
        ('seen_rowptr', lambda x: x + 1, 'not compressed rows'),
        (
            'seen_rowptr',
            lambda x: x.index_fill(0, torch.tensor([1]), 99),
            'not compressed rows',
        ),
        ('user_ids.text', lambda x: None, "no tensor 'user_ids.text'"),
        ('user_ids.text', lambda x: x[1:], 'offsets of texts are invalid'),
        ('user_ids.text', lambda x: x.fill_(0x80), 'begins within a character'),
        ('user_ids.text', lambda x: x.fill_(0xFF), 'decode byte 0xff'),
        ('user_ids.offsets', lambda x: x.int(), 'offsets of texts are invalid'),
        ('user_ids.offsets', lambda x: x.flip(0), 'offsets of texts are invalid'),
        ('user_ids.offsets', lambda x: x[:0], 'offsets of texts are invalid'),
        ('user_ids.offsets', lambda x: x[None], 'offsets of texts are invalid'),
        ('item_ids.order', lambda x: x + 1, "order of 'item_ids' is no permutation"),
        ('item_ids.order', lambda x: x - 1, "order of 'item_ids' is no permutation"),
        ('item_ids.order', lambda x: x * 0, "order of 'item_ids' is no permutation"),
        ('item_ids.order', lambda x: x[1:], "order of 'item_ids' is no permutation"),
        ('item_ids.order', lambda x: x.flip(0), "'item_ids' are not sorted"),
        ('user_ids.order', lambda x: x.flip(0), "'user_ids' are not sorted"),
        ('user_ids.text', lambda x: x.fill_(0x30), "'user_ids' are not sorted"),
        ('item_ids.is_integer', lambda x: x[1:], "order of 'item_ids' is no"),
        ('item_ids.is_integer', lambda x: x.int(), "order of 'item_ids' is no"),
        ('titles.row', lambda x: x + 100, "'titles' belong to other rows"),
        ('titles.row', lambda x: x[:0], "'titles' are 1 for"),
        ('titles.offsets', lambda x: None, "no tensor 'titles.offsets'"),
        ('feature_mapper.mean.0', lambda x: x[:2], 'mapper do not match'),
        ('feature_mapper.weight.0', lambda x: None, 'feature mapper is missing'),
    ],
)
def test_tensors_that_do_not_match_are_refused(folder, name, change, message):
    rewrite(folder, {name: change(load_file(folder / 'model.safetensors')[name])})
    with pytest.raises(ValueError, match=rf'must contain a recommender.*{message}'):
        Recommender.load(folder)


def header(entries, body=b'', length=None):
    content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = len(content) if length is None else length
    return struct.pack('<Q', size) + content + body


def entry(shape=(2,), offsets=(0, 8), dtype='F32'):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


@pytest.mark.parametrize(
    'content',
    [
        b'123',
        header({}, length=2**62),
        header({}, length=99),
        header(b'x' * 9),
        header(b'[' * 50_000),
        header([]),
        header({'a': 3}, bytes(8)),
        header({'a': entry(dtype='F31')}, bytes(8)),
        header({'a': entry(offsets=(0, 4, 8))}, bytes(8)),
        header({'a': entry((-2,), (0, -8))}, bytes(8)),
        header({'a': entry((2.0,))}, bytes(8)),
        header({'a': entry((True, 2))}, bytes(8)),
        header({'a': entry((3,))}, bytes(8)),
        header({'a': entry((2**40, 2**40), (0, 8))}, bytes(8)),
        header({'a': entry()}, bytes(4)),
        header({'a': entry()}, bytes(12)),
        header({'a': entry(), 'b': entry()}, bytes(16)),
        header({'a': entry(offsets=(8, 16))}, bytes(16)),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(folder, content):
    (folder / 'model.safetensors').write_bytes(content)
    update_checksums(folder)
    with pytest.raises(ValueError, match='must be a safetensors file'):
        Recommender.load(folder)


@pytest.mark.parametrize('dtype', [torch.double, torch.half, torch.bfloat16])
def test_any_precision_is_saved(synthetic, tmp_path, dtype):
    model, _ = synthetic()
    Recommender(
        model.user_x.to(dtype),
        model.item_x.to(dtype),
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=None,
    ).save(tmp_path)
    assert Recommender.load(tmp_path).item_x.dtype == dtype
