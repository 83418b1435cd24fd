import json
import re
import shutil

import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.report.page import GENERATOR
from promptmm_pyg.serving import Recommender
from tests.report.conftest import EVIL, NAME, SIZES, Page, quietly

SECTIONS = ['learning', 'comparison', 'slices', 'modalities', 'cost', 'examples']


def fails(capsys, *argv):
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ''
    return err


def test_a_whole_run_fills_every_section_and_lacks_nothing(whole, report_on):
    page, err = report_on(whole)
    assert all(page.named(key) for key in SECTIONS)
    assert 'note:' not in err
    assert 'What is not on this page' not in page.text


def test_the_metrics_are_those_of_the_evaluation(whole, whole_page):
    text = Page(whole_page.read_text(encoding='utf-8')).text
    content = json.loads((whole / 'evaluation-val.json').read_text())
    models = list(content['metrics'])
    assert models == ['teacher', 'student', 'baseline', 'truncated_teacher', 'served']
    models[:2] = ['student', 'teacher']  # The main one first.
    for key in ('Recall@10', 'NDCG@20', 'MAP@50'):
        row = ' '.join(f'{content["metrics"][name][key]:.4f}' for name in models)
        assert f'{key} {row}' in text
    one = content['differences']['student - baseline']['NDCG@20']
    assert f'({one["low"]:+.4f} to {one["high"]:+.4f})' in text


def test_slices_models_and_sizes_are_there(whole_page):
    text = Page(whole_page.read_text(encoding='utf-8')).text
    for words in (
        'Cold and rare items',
        'Length of history',
        'lacks text',
        'has every modality',
        'user embeddings',
        'Time of exact top-10 lists',
        'student 1,024',
        'teacher 1,024',
    ):
        assert words in text
    x = make_synthetic_dataset(**SIZES)['item'].x_text[:, :6]
    lacking = [i for i in range(50) if i % 5 == 0 or not x[i].any()]
    assert f'6 numbers per item; missing for {len(lacking) / 50:.1%} of items' in text
    # 110 rows of width 4.
    assert 'student 440' in text


def test_titles_are_text_and_never_markup(whole_page):
    source = whole_page.read_text(encoding='utf-8')
    page = Page(source)
    assert EVIL in page.text
    assert '<script' not in source
    assert page.count('script') == page.count('img') == 0
    assert NAME in page.text
    assert page.count('b') == 0


def test_no_path_of_the_data_is_told(whole, trained, whole_page):
    source = whole_page.read_text(encoding='utf-8')
    assert str(trained.parent) not in source
    assert str(whole.parent) not in source


def test_every_model_has_an_interval_on_validation(whole_page):
    text = Page(whole_page.read_text(encoding='utf-8')).text
    assert re.search('mean over [0-9]+ users. Whiskers are 95% intervals', text)


def test_test_is_never_read(whole, copy_of):
    run = copy_of(whole)
    quietly('report', run)
    assert not (run / 'evaluation-test.json').exists()


def test_readings_of_test_are_shown_where_there_were_some(whole, copy_of, report_on):
    run = copy_of(whole)
    quietly('evaluate', run, '--eval-split', 'test')
    quietly('evaluate', run, '--eval-split', 'test')
    before = (run / 'evaluation-test.json').read_bytes()
    page, _ = report_on(run)
    assert 'Test was read 2 times' in page.text
    assert (run / 'evaluation-test.json').read_bytes() == before


def test_readings_for_an_earlier_student_are_told(whole, copy_of, report_on):
    run = copy_of(whole)
    (run / 'evaluation-test.json').write_text('{"test_reads": [{"time": "t"}]}')
    page, _ = report_on(run)
    assert 'test was read 1 time for an earlier student' in page.text


def test_a_teacher_alone_names_the_next_steps(trained, report_on):
    page, err = report_on(trained)
    assert page.named('learning')
    assert page.named('modalities')
    assert not page.named('examples')
    assert not page.named('comparison')
    assert 'there is no student' in page.text
    assert f"promptmm distill '{trained}'" in page.text
    assert f"promptmm evaluate '{trained}'" in page.text
    assert err.count('note: ') == 2


def test_a_student_that_was_not_evaluated_shows_its_examples(distilled, report_on):
    page, _ = report_on(distilled)
    assert page.named('examples')
    assert not page.named('comparison')
    assert not page.named('slices')
    assert 'validation was not evaluated' in page.text


def test_an_interrupted_student_is_to_be_resumed(trained, copy_of, report_on):
    run = copy_of(trained)
    (run / 'student').mkdir()
    shutil.copy(run / 'teacher' / 'log.jsonl', run / 'student' / 'log.jsonl')
    page, _ = report_on(run)
    assert f"promptmm distill '{run}' --resume" in page.text


def test_an_interrupted_teacher_shows_its_curve(trained, copy_of, report_on):
    run = copy_of(trained)
    (run / 'teacher' / 'model.safetensors').unlink()
    page, _ = report_on(run)
    assert page.named('learning')
    assert 'the teacher is not fully trained' in page.text
    assert f"promptmm train ... --out '{run}' --resume" in page.text


def test_a_student_without_control_says_what_is_lost(whole, copy_of, report_on):
    run = copy_of(whole)
    shutil.rmtree(run / 'student' / 'baseline')
    page, _ = report_on(run)
    assert 'the student was trained without its baseline' in page.text


def test_data_that_are_gone_leave_what_was_written(whole, copy_of, report_on):
    run = copy_of(whole)
    config = json.loads((run / 'config.json').read_text())
    config['data']['path'] = str(run / 'gone.csv')
    (run / 'config.json').write_text(json.dumps(config))
    page, _ = report_on(run)
    assert 'the data could not be read' in page.text
    assert page.named('comparison')
    assert page.named('examples')
    assert 'Warm and cold items' in page.text
    assert 'Length of history' not in page.text
    assert not page.named('modalities')


def test_an_evaluation_of_other_models_has_no_intervals(whole, copy_of, report_on):
    run = copy_of(whole)
    file = run / 'evaluation-val.json'
    content = json.loads(file.read_text())
    content['metrics']['student']['Recall@20'] += 0.01
    file.write_text(json.dumps(content))
    page, _ = report_on(run)
    assert 'evaluation-val.json is not of the current models' in page.text
    assert 'Length of history' not in page.text
    assert f'{content["metrics"]["student"]["Recall@20"]:.4f}' in page.text


def test_models_that_came_later_are_named(distilled, trained, copy_of, report_on):
    run = copy_of(distilled)
    one = {'Recall@20': None}
    content = {'split': 'val', 'num_users': 1, 'metrics': {'teacher': one}}
    (run / 'evaluation-val.json').write_text(json.dumps(content))
    page, _ = report_on(run)
    names = 'baseline, served, student, truncated_teacher'
    assert f'validation was not evaluated for: {names}' in page.text


def test_items_without_titles_are_told(whole, copy_of, report_on):
    run = copy_of(whole)
    model = Recommender.load(run / 'recommender')
    model.titles.clear()
    model.save(run / 'recommender')
    page, _ = report_on(run)
    assert 'the items have no titles' in page.text
    assert page.named('examples')


def test_the_page_lies_in_the_run_by_default_and_is_replaced(trained, copy_of):
    run = copy_of(trained)
    out, _ = quietly('report', run)
    assert out == f'written: {run / "report.html"}\n'
    (run / 'report.html').write_text(GENERATOR)
    quietly('report', run)
    assert len((run / 'report.html').read_text(encoding='utf-8')) > 1000
    assert not list(run.glob('.*'))


def test_a_file_that_is_no_report_is_kept(trained, tmp_path, capsys):
    file = tmp_path / 'mine.html'
    file.write_text('<p>mine')
    err = fails(capsys, 'report', trained, '--out', file)
    assert 'exists already and is not a report. Choose another --out' in err
    assert file.read_text() == '<p>mine'


@pytest.mark.parametrize(
    ('name', 'match'),
    [
        ('x.pdf', 'must end in .html'),
        ('d.html', 'must be a file (got the'),
    ],
)
def test_a_place_that_does_not_fit_is_a_mistake(trained, tmp_path, capsys, name, match):
    (tmp_path / 'd.html').mkdir()
    assert match in fails(capsys, 'report', trained, '--out', tmp_path / name)


def test_what_is_not_a_run_is_a_mistake(tmp_path, capsys):
    assert 'is not a run' in fails(capsys, 'report', tmp_path)
    assert not (tmp_path / 'report.html').exists()


def test_a_damaged_evaluation_is_a_mistake(whole, copy_of, capsys):
    run = copy_of(whole)
    (run / 'evaluation-val.json').write_text('{')
    assert 'is damaged' in fails(capsys, 'report', run)
    assert not (run / 'report.html').exists()
