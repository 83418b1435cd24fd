import html
import re

import pytest
from jinja2 import UndefinedError

from promptmm_pyg.report import Report, render
from promptmm_pyg.report.content import (
    Bar,
    Comparison,
    Curve,
    Difference,
    Example,
    Item,
    Latency,
    Missing,
    Size,
    Slice,
    SliceRow,
    Training,
)
from promptmm_pyg.report.headline import headline
from promptmm_pyg.report.page import _environment
from promptmm_pyg.report.tables import file_size, number
from tests.report.conftest import EVIL, Page


def full(text='x', split='validation'):
    """A report with everything, ``text`` in each place that data can reach."""
    bar = Bar(0.5, 0.25, 0.75)
    metrics = {text: {'Recall@20': 0.5, text: None}}
    difference = Difference(text, 'Recall@20', Bar(0.1, -0.1, 0.3))
    one = Comparison(
        split, 7, 'Recall@20', metrics, {text: 8}, {text: bar}, [difference], 2, text
    )
    item = Item(text, text, 1.5, True)
    return Report(
        name=text,
        made=text,
        missing=[Missing(text, text)],
        facts={text: text},
        monitor=text,
        curves={text: Curve((1, 2), (0.1, 0.2), 2)},
        losses={text: Curve((1, 2), (1.0, 0.5), 2)},
        trainings={text: Training(2, 2, 0.5)},
        comparisons=[one],
        slices=[Slice(text, text, [SliceRow(text, 7, {text: bar})])],
        slice_metric=text,
        weights={text: 0.5},
        shares={text: {text: 1.0}},
        sizes={text: Size(1234, 2048, None)},
        recommender_bytes=4096,
        latencies=[Latency(text, 1024, 1.5, 1.25, 2.0, 9)],
        examples=[Example(text, text, [item], 9, [item])],
        settings={text: text},
    )


def test_tags_are_balanced():
    assert Page(render(full())).count('svg') == 6


@pytest.mark.parametrize(
    'evil', [EVIL, '"><script>', "</style></title>'", '\x00\ud800']
)
def test_text_of_the_data_adds_no_markup(evil):
    plain, other = Page(render(full())), Page(render(full(evil)))
    assert [tag for tag, _ in other.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(a) for _, a in other.tags] == [sorted(a) for _, a in plain.tags]


def test_text_of_the_data_is_shown_unchanged():
    assert Page(render(full('<i>&amp;</i>'))).text.count('<i>&amp;</i>') > 20


@pytest.mark.parametrize('report', [full(), full(EVIL), Report('n', 'm')])
def test_the_page_loads_nothing_and_runs_nothing(report):
    text = render(report)
    for tag, attrs in Page(text).tags:
        assert tag not in {'script', 'img', 'link', 'iframe', 'object', 'use', 'image'}
        assert not any(name.startswith('split') for name in attrs)
        assert not {'src', 'srcset', 'data', 'action', 'style'} & set(attrs)
        assert attrs.get('href', '#').startswith('#')
    style = re.search('<style>(.*?)</style>', text, re.DOTALL)[1]
    assert 'url(' not in style
    assert '@import' not in style
    assert '://' not in text
    assert 'default-src &#39;none&#39;' in text


def test_an_empty_report_has_no_section():
    page = Page(render(Report('n', 'm')))
    assert page.count('section') == page.count('nav') == page.count('figure') == 0
    assert 'What is not on this page' not in page.text


def test_links_lead_to_the_sections_that_are_there():
    page = Page(render(full()))
    targets = [attrs['href'][1:] for tag, attrs in page.tags if tag == 'a']
    ids = [attrs['id'] for tag, attrs in page.tags if tag == 'section']
    assert (
        targets
        == ids
        == [
            'comparison',
            'examples',
            'slices',
            'modalities',
            'cost',
            'learning',
            'settings',
        ]
    )


def test_every_figure_has_a_caption_and_every_chart_a_name():
    page = Page(render(full()))
    assert page.count('figcaption') == page.count('figure')
    assert all(a['aria-label'] for tag, a in page.tags if tag == 'svg')


def test_both_color_schemes_and_phones_are_served():
    text = render(full())
    assert '@media (prefers-color-scheme: dark)' in text
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text


@pytest.mark.parametrize(
    'words',
    [
        'trainable parameters file x 1,234 2.0 KiB The',  # No empty column.
        'x 1,024 1.50 1.25 to 2.00 Learning',
        'the quartiles of 9 repeats or',
        'Measured when this report was made, on the same machine with 1 thread;',
        'pair Recall@20 x +0.1000 (-0.1000 to +0.3000)',
        'Interacted with x and 8 more .',
        'rank item score held out 1 x x 1.500 yes',
        'x 2 2 0.5',
    ],
)
def test_numbers_are_shown_with_their_units(words):
    assert words in Page(render(full())).text.replace(' more.', ' more .')


def test_the_reads_of_test_are_counted():
    text = Page(render(full('now', 'test'))).text
    assert 'Test was read 2 times, last on now. This report did not read it.' in text
    assert 'Test was read' not in Page(render(full())).text


@pytest.mark.parametrize('low', [0.1, -0.3])
def test_an_interval_on_one_side_of_zero_is_significant(low):
    report = full()
    bar = Bar(low + 0.1, low, low + 0.2)
    report.comparisons[0].differences[0] = Difference('x', 'Recall@20', bar)
    words = f'{low + 0.1:+.4f} * ({low:+.4f} to {low + 0.2:+.4f})'
    assert words in Page(render(report)).text


def compared(split='validation', low=0.01, reads=0):
    bars = {'student': Bar(0.25, 0.2, 0.3), 'teacher': Bar(0.2), 'baseline': Bar(0.2)}
    difference = Difference('student - baseline', 'Recall@20', Bar(0.05, low, 0.09))
    widths = {'student': 16, 'teacher': 64}
    return Comparison(
        split, 1900, 'Recall@20', {}, widths, bars, [difference], reads, 'now'
    )


def test_the_headline_says_how_good_against_what_and_how_sure():
    assert headline(Report('n', 'm', comparisons=[compared()])) == [
        'The student has Recall@20 0.2500 on validation (mean over 1,900 users, 95% '
        'interval 0.2000 to 0.3000).',
        'Against the baseline without a teacher: +0.0500 (+25.0%), 95% interval '
        '+0.0100 to +0.0900: significant.',
        "It has 125% of the teacher's value, at width 16 instead of 64.",
        'Intervals are over users of one training; training noise is not included. '
        'Epochs were chosen on validation, so its values are optimistic; test was not '
        'read.',
    ]


def test_the_headline_is_of_test_where_it_was_read():
    parts = [compared(), compared('test', low=-0.01, reads=2)]
    text = ' '.join(headline(Report('n', 'm', comparisons=parts)))
    assert 'on test' in text
    assert 'no significant difference' in text
    assert 'Test was read 2 times, so the values are optimistic.' in text
    assert headline(Report('n', 'm')) == []


def test_a_model_has_one_color_everywhere():
    bars = {'b': Bar(0.5), 'a': Bar(0.5)}
    report = Report(
        'n',
        'm',
        monitor='r',
        curves={'a': Curve((1, 2), (0.1, 0.2))},
        slices=[Slice('s', 'c', [SliceRow('all', 7, bars)])],
    )
    text = render(report)
    assert 'class="line c0"' in text
    found = re.findall('<title>(.)</title>.*?class="bar c(.)"', text)
    assert found == [('b', '1'), ('a', '0')]


def test_more_models_than_colors_can_be_drawn():
    bars = {f'm{n}': Bar(0.5) for n in range(9)}
    Page(render(Report('n', 'm', slices=[Slice('s', 'c', [SliceRow('a', 7, bars)])])))


def test_empty_groups_are_named():
    rows = [SliceRow('all', 7, {'m': Bar(0.5)}), SliceRow('none', 0, {})]
    text = Page(render(Report('n', 'm', slices=[Slice('s', 'c', rows)]))).text
    assert 'No held-out items for: none.' in text


@pytest.mark.parametrize('character', ['\x00', '\x1b', '\x85', '\ud800', '\uffff'])
def test_characters_that_html_does_not_allow_are_replaced(character):
    text = render(Report(f'a{character}b', 'm', settings={'k': f'a{character}b'}))
    assert text.count('a\ufffdb') == 3
    text.encode()


@pytest.mark.parametrize('text', ['<script>', '"', "'", '&amp;', 'plain', 'é 漢 🎬'])
def test_escaped_text_reads_as_before(text):
    assert html.unescape(render(Report(text, 'm'))).count(f'<h1>{text}</h1>') == 1


def test_a_missing_number_is_a_dash():
    assert [number(x) for x in (None, float('nan'), float('inf'))] == ['–'] * 3
    assert number(-0.25, 1) == '-0.2'


@pytest.mark.parametrize(
    ('count', 'text'),
    [(0, '0 Bytes'), (1023, '1023 Bytes'), (1024, '1.0 KiB'), (5 << 40, '5.0 TiB')],
)
def test_bytes_have_a_unit(count, text):
    assert file_size(count) == text


def test_a_name_that_the_template_does_not_know_is_an_error():
    with pytest.raises(UndefinedError):
        _environment().from_string('{{ reprot.name }}').render(report=full())
