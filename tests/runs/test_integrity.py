import json

import pytest

from promptmm_pyg.runs import RunError
from promptmm_pyg.runs.run import settings_of

SECTIONS = (
    'data',
    'data_sha256',
    'titles',
    'prompt',
    'teacher',
    'train',
    'loss_weights',
)
USER = ('--user', 'u1')


def change(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize('section', SECTIONS)
def test_a_section_that_is_gone_or_another_thing_is_named(
    distilled, copy_of, fails, section
):
    run = copy_of(distilled)
    change(run / 'config.json', **{section: 3})
    match = f"config.json' is damaged: '{section}' must be what"
    for words in (['evaluate', run], ['explain', run, *USER], ['report', run]):
        assert f'{match}' in fails(*words)
    assert '(got 3)' in fails('compare', run, distilled)
    content = json.loads((run / 'config.json').read_text())
    del content[section]
    (run / 'config.json').write_text(json.dumps(content))
    assert '(got none). Restore the file' in fails('distill', run, '--dry-run')


@pytest.mark.parametrize('key', ['path', 'format', 'split', 'user', 'content'])
def test_data_that_are_not_described_are_named(distilled, copy_of, fails, key):
    run = copy_of(distilled)
    data = json.loads((run / 'config.json').read_text())['data']
    change(run / 'config.json', data={**data, key: [3]})
    assert 'promptmm: error: ' in fails('evaluate', run)
    if key != 'content':  # Runs from before contents were encoded have none.
        del data[key]
        change(run / 'config.json', data=data)
        message = fails('evaluate', run)
        assert (
            "config.json' is damaged, or of another version than the files" in message
        )
        assert f"(KeyError: '{key}')" in message


def test_parameters_of_another_shape_are_named(distilled, copy_of, fails):
    run = copy_of(distilled)
    change(run / 'student' / 'config.json', student={'embedding_dim': 7})
    for words in (['evaluate', run], ['explain', run, *USER, '--model', 'baseline']):
        assert "student/config.json' is damaged, or of another ver" in fails(*words)
    teacher = json.loads((run / 'config.json').read_text())['teacher']
    change(run / 'config.json', teacher={**teacher, 'embedding_dim': 7})
    assert 'size mismatch' in fails('evaluate', run)
    change(run / 'config.json', teacher={**teacher, 'nope': 7})
    assert 'unexpected keyword argument' in fails('evaluate', run)


@pytest.mark.parametrize(
    'content',
    ['[]', '{}', '{"model": "LightGCN", "student": {"embedding_dim": 1000000000000}}'],
)
def test_a_student_without_settings_is_named(distilled, copy_of, fails, content):
    run = copy_of(distilled)
    (run / 'student' / 'config.json').write_text(content)
    assert "student/config.json' is damaged" in fails('evaluate', run)


@pytest.mark.parametrize('name', ['config.json', 'student/config.json'])
def test_files_that_are_nested_without_end_are_damaged(distilled, copy_of, fails, name):
    run = copy_of(distilled)
    (run / name).write_text('[' * 100_000)
    message = fails('evaluate', run)
    assert f"{name}' is damaged: " in message
    assert 'maximum recursion' in message


def test_other_errors_pass():
    with pytest.raises(ValueError, match='mine'), settings_of('x'):
        raise ValueError('mine')
    with pytest.raises(RuntimeError, match='mine'), settings_of('x'):
        raise RuntimeError('mine')
    with (
        pytest.raises(RunError, match=r"'x' is damaged.*RuntimeError: mine"),
        settings_of('x', RuntimeError),
    ):
        raise RuntimeError('mine')
