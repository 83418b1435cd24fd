import html

import pytest

from promptmm_pyg.report.text import number, safe, short, size


@pytest.mark.parametrize('text', ['<script>', '"', "'", '&amp;', 'plain', 'é 漢 🎬'])
def test_safe_text_reads_as_it_was(text):
    assert html.unescape(safe(text)) == text


@pytest.mark.parametrize('character', '<>"\'')
def test_no_character_of_markup_is_left(character):
    assert character not in safe(f'a{character}b')


@pytest.mark.parametrize('character', ['\x00', '\x1b', '\x85', '\ud800', '\uffff'])
def test_what_html_has_no_place_for_is_replaced(character):
    assert safe(f'a{character}b') == 'a\ufffdb'
    safe(f'a{character}b').encode()


def test_short_text_stays_and_long_text_is_cut_to_its_length():
    assert short('abcde', 5) == 'abcde'
    assert short('abcdef', 5) == 'abcd…'


def test_what_is_no_number_is_a_dash():
    assert [number(x) for x in (None, float('nan'), float('inf'))] == ['–'] * 3
    assert number(-0.25, 1) == '-0.2'


@pytest.mark.parametrize(
    ('count', 'text'),
    [(0, '0 B'), (1023, '1023 B'), (1024, '1.0 KiB'), (5 << 40, '5.0 TiB')],
)
def test_bytes_have_a_unit(count, text):
    assert size(count) == text
