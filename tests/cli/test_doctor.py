import json
import os
from pathlib import Path

import pytest
import torch

from promptmm_pyg.__main__ import set_wait_policy
from promptmm_pyg.cli import doctor, main
from promptmm_pyg.cli.doctor import Check
from promptmm_pyg.cli.system import GIB


def levels(checks):
    return {check.about: check.level for check in checks}


def test_this_machine_is_fine(tmp_path, capsys, recwarn):
    assert main(['doctor', '--out', str(tmp_path / 'a' / 'b')]) == 0
    out = capsys.readouterr().out
    assert f'\nok       torch: {torch.__version__}\n' in out
    assert '\nok       self test: trained, saved and loaded in ' in out
    assert f"'{tmp_path / 'a' / 'b'}' can be written\n" in out
    assert '\n0 problems, ' in out
    assert list(tmp_path.iterdir()) == []
    assert not [x for x in recwarn if 'epoch' in str(x.message)]


def test_a_problem_sets_the_status_and_has_its_fix(tmp_path, capsys, monkeypatch):
    def broken():
        raise OSError('no  such\nlibrary')

    monkeypatch.setattr(doctor, '_self_test', broken)
    assert main(['doctor', '--out', str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert (
        'problem  self test: OSError: no such library\n         fix: Install '
    ) in out
    assert '\n1 problem, ' in out


def test_every_problem_and_note_has_a_fix(monkeypatch):
    monkeypatch.setattr(doctor, 'version', missing_package)
    found = [*doctor.check_versions(), *doctor.check_extras()]
    assert all(check.fix for check in found if check.level != 'ok')
    assert {check.level for check in found} == {'ok', 'problem', 'note'}


def missing_package(name):
    raise doctor.PackageNotFoundError(name)


def test_a_package_that_is_needed_is_a_problem_an_extra_a_note(monkeypatch):
    monkeypatch.setattr(doctor, 'version', missing_package)
    found = levels(doctor.check_versions())
    assert found.pop('python') == 'ok'
    assert set(found.values()) == {'problem'}
    assert set(levels(doctor.check_extras()).values()) == {'note'}


def test_a_version_that_is_too_old_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, 'version', lambda name: '0.1')
    torch_check = next(c for c in doctor.check_versions() if c.about == 'torch')
    assert torch_check == Check(
        'problem',
        'torch',
        '0.1 is too old',
        f"pip install 'torch>={doctor.requirements(None)['torch']}'",
    )
    frames = next(c for c in doctor.check_extras() if c.about == 'extra frames')
    assert frames.level == 'note'
    assert 'pyarrow 16 or later (found 0.1)' in frames.text


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, 'required_python', lambda: '99.0')
    assert levels(doctor.check_versions())['python'] == 'problem'


def test_a_package_that_is_not_installed_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, 'required_python', lambda: None)
    (check,) = doctor.check_versions()
    assert (check.level, check.text) == ('problem', 'is not installed')


def test_code_that_is_newer_than_its_metadata_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, 'requirements', lambda extra: {})
    found = doctor.check_extras()
    assert {check.level for check in found} == {'note'}
    assert 'its code is newer' in found[0].text


def test_a_kernel_that_does_not_load_is_a_problem(monkeypatch):
    def broken(name):
        raise OSError('undefined symbol: torch')

    monkeypatch.setattr(doctor, 'missing', lambda extra: [])
    monkeypatch.setattr(doctor, 'requirements', lambda extra: {'some': '1'})
    monkeypatch.setattr(doctor.importlib, 'import_module', broken)
    found = {check.about: check for check in doctor.check_extras()}
    assert found['extra kernels'].level == 'problem'
    assert (
        'torch_scatter does not load: undefined symbol' in found['extra kernels'].text
    )
    assert '--no-build-isolation' in found['extra kernels'].fix
    assert found['extra content'].level == 'problem'
    assert found['extra viz'].level == 'ok'


@pytest.mark.parametrize(
    ('have', 'used', 'policy', 'level'),
    [
        (2, 4, 'PASSIVE', 'note'),
        (2, 2, 'passive', 'ok'),
        (2, 2, 'ACTIVE', 'note'),
        (1, 1, '', 'ok'),
        (4, 1, 'PASSIVE', 'note'),
    ],
)
def test_threads_should_be_as_many_as_cores_and_sleep_while_they_wait(
    monkeypatch, have, used, policy, level
):
    monkeypatch.setenv('OMP_WAIT_POLICY', policy)
    monkeypatch.setattr(doctor, 'cores', lambda: have)
    monkeypatch.setattr(doctor.torch, 'get_num_threads', lambda: used)
    (check,) = doctor.check_threads()
    assert check.level == level
    assert bool(check.fix) == (level == 'note')


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, {'OMP_WAIT_POLICY': 'PASSIVE', 'KMP_BLOCKTIME': '0'}),
        ({'OMP_WAIT_POLICY': 'ACTIVE'}, {'OMP_WAIT_POLICY': 'ACTIVE'}),
        ({'GOMP_SPINCOUNT': '9'}, {'GOMP_SPINCOUNT': '9'}),
    ],
)
def test_the_wait_policy_of_the_user_is_not_changed(given, expected):
    environment = dict(given)
    set_wait_policy(environment)
    assert environment == expected


@pytest.mark.parametrize(('free', 'level'), [(2 * GIB - 1, 'note'), (2 * GIB, 'ok')])
def test_little_memory_is_a_note(monkeypatch, free, level):
    monkeypatch.setattr(doctor, 'available_memory', lambda: free)
    (check,) = doctor.check_memory()
    assert check.level == level


def test_a_gpu_that_does_not_compute_is_a_note(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)

    def broken(*sizes, device):
        raise RuntimeError(f'no kernel image on {device}')

    monkeypatch.setattr(doctor.torch, 'ones', broken)
    (check,) = doctor.check_gpus()
    assert check.level == 'note'
    assert check.text == 'does not compute: no kernel image on cuda:0'


def test_no_gpu_is_fine(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    (check,) = doctor.check_gpus()
    assert check.level == 'ok'


def test_a_file_is_no_place_to_write(tmp_path):
    (tmp_path / 'x').write_text('mine')
    check = doctor.check_writing(tmp_path / 'x')
    assert check.level == 'problem'
    assert f"'{tmp_path / 'x'}' cannot be written: " in check.text


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_the_right_is_a_problem(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor.check_writing(tmp_path / 'runs').level == 'problem'
    tmp_path.chmod(0o700)


def test_embeddings_that_do_not_come_back_fail_the_self_test(monkeypatch):
    monkeypatch.setattr(doctor, 'load_tensors', zeros_of(doctor.load_tensors))
    (check,) = doctor.check_self()
    assert check.level == 'problem'
    assert 'changed on disk' in check.text


def zeros_of(load):
    def loaded(path: Path, what: str):
        return {name: 0 * x for name, x in load(path, what).items()}

    return loaded


@pytest.mark.parametrize(('number', 'text'), [(0, 'notes'), (1, 'note'), (2, 'notes')])
def test_one_is_counted_as_one(monkeypatch, capsys, number, text):
    notes = [doctor.Check('note', 'x', 'y')] * number
    monkeypatch.setattr(doctor, 'check_versions', lambda: notes)
    for name in ('extras', 'threads', 'memory', 'gpus', 'self'):
        monkeypatch.setattr(doctor, f'check_{name}', list)
    assert main(['doctor']) == 0
    assert capsys.readouterr().out.endswith(f'\n0 problems, {number} {text}\n')


def test_json_is_one_document(tmp_path, capsys):
    assert main(['doctor', '--json', '--out', str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ['checks', 'problems', 'notes']
    assert all(list(x) == ['level', 'about', 'text', 'fix'] for x in document['checks'])
    assert document['problems'] == 0
    names = [x['about'] for x in document['checks']]
    assert {'python', 'torch', 'self test', 'writing'} <= set(names)
    (tmp_path / 'file').touch()
    words = ['doctor', '--json', '--out', str(tmp_path / 'file')]
    assert main(words) == 1
    assert json.loads(capsys.readouterr().out)['problems'] == 1
