"""The page in headless Chromium, which `make integration` installs where it can."""

import html
import re
import shutil
import subprocess
import zlib

import pytest

from tests.report.conftest import NAME

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        BROWSER is None, reason=f'none of the browsers {", ".join(NAMES)} is installed'
    ),
]


def browse(folder, *words):
    """Runs the browser without a network and returns what it printed."""
    flags = [
        '--headless=new',
        '--no-sandbox',  # Root, as in a container, may not use the sandbox.
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--hide-scrollbars',
        '--host-resolver-rules=MAP * ~NOTFOUND',
        '--virtual-time-budget=2000',
        f'--user-data-dir={folder / "profile"}',
    ]
    done = subprocess.run(
        [BROWSER, *flags, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def probe(page, folder, expression, width=360):
    """What a script beside the page finds in it at the width of a phone."""
    # The page forbids scripts, also those of others: only this copy may run one.
    source = page.read_text(encoding='utf-8')
    source = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', '', source)
    (folder / 'page.html').write_text(source, encoding='utf-8')
    script = (
        'const f = document.querySelector("iframe");'
        'f.onload = () => { const d = f.contentDocument;'
        f'document.title = JSON.stringify({expression}); }};'
    )
    (folder / 'probe.html').write_text(
        f'<iframe src="page.html" width="{width}" height="800"></iframe>'
        f'<script>{script}</script>'
    )
    words = ['--allow-file-access-from-files', '--dump-dom']
    found = browse(folder, *words, (folder / 'probe.html').as_uri())
    return re.search('<title>(.*?)</title>', found)[1]


def pixels(png):
    """Width, and the rows of an 8-bit RGB or RGBA picture as bytes."""
    width = int.from_bytes(png[16:20])
    channels = {2: 3, 6: 4}[png[25]]
    data, place = b'', 8
    while place < len(png):
        size = int.from_bytes(png[place : place + 4])
        if png[place + 4 : place + 8] == b'IDAT':
            data += png[place + 8 : place + 8 + size]
        place += size + 12
    raw = zlib.decompress(data)
    stride = 1 + width * channels
    return width, [raw[n : n + stride] for n in range(0, len(raw), stride)], channels


def corner(folder, page, *words):
    """The first pixel, which no filter of PNG changes."""
    out = folder / 'shot.png'
    browse(
        folder, *words, '--window-size=800,600', f'--screenshot={out}', page.as_uri()
    )
    width, rows, _ = pixels(out.read_bytes())
    assert width == 800
    return tuple(rows[0][1:4]), rows


def test_nothing_of_the_data_runs(whole_page, tmp_path):
    found = browse(tmp_path, '--dump-dom', whole_page.as_uri())
    title = re.search('<title>(.*?)</title>', found)[1]
    assert title == f'{html.escape(NAME, quote=False)} – promptmm report'
    assert 'owned' not in title
    assert '<script' not in found
    assert '<img' not in found


def test_markup_in_titles_stays_text_even_without_the_policy(whole_page, tmp_path):
    expression = '[d.scripts.length, d.images.length, d.title.includes("owned")]'
    assert probe(whole_page, tmp_path, expression) == '[0,0,false]'


def test_nothing_is_asked_of_the_network(whole_page, tmp_path):
    expression = 'f.contentWindow.performance.getEntriesByType("resource").length'
    assert probe(whole_page, tmp_path, expression) == '0'


@pytest.mark.parametrize('width', [320, 360, 1000])
def test_the_page_is_no_wider_than_the_screen(whole_page, tmp_path, width):
    expression = 'd.documentElement.scrollWidth'
    assert int(probe(whole_page, tmp_path, expression, width)) <= width


def test_no_table_scrolls_sideways_on_a_phone(whole_page, tmp_path):
    expression = (
        '[...d.querySelectorAll("details")].map(x => x.open = true) && '
        '[...d.querySelectorAll(".wide")].filter(x => x.scrollWidth > x.clientWidth + 1'
        ').map(x => x.textContent)'
    )
    assert probe(whole_page, tmp_path, expression, 390) == '[]'


def test_letters_of_charts_stay_readable_on_a_phone(whole_page, tmp_path):
    expression = (
        'Math.min(...[...d.querySelectorAll("svg text")].map('
        'x => 13 * x.ownerSVGElement.getBoundingClientRect().width / '
        'x.ownerSVGElement.viewBox.baseVal.width))'
    )
    assert float(probe(whole_page, tmp_path, expression)) >= 10


def test_labels_of_charts_do_not_leave_them(whole_page, tmp_path):
    expression = (
        '[...d.querySelectorAll("svg")].flatMap(s => [...s.querySelectorAll("text")]'
        '.filter(t => { const a = s.getBoundingClientRect(), '
        'b = t.getBoundingClientRect(); return b.left < a.left - 1 || '
        'b.right > a.right + 1 || b.top < a.top - 2 || b.bottom > a.bottom + 2 })'
        '.map(t => t.textContent))'
    )
    assert probe(whole_page, tmp_path, expression) == '[]'


def test_every_chart_is_drawn(whole_page, tmp_path):
    expression = (
        '[...d.querySelectorAll("svg")].map(s => s.getBoundingClientRect())'
        '.filter(r => r.width > 200 && r.height > 60).length'
    )
    assert int(probe(whole_page, tmp_path, expression)) == 8


def test_light_and_dark_follow_the_reader(whole_page, tmp_path):
    light, rows = corner(tmp_path, whole_page)
    assert light == (255, 255, 255)
    assert len(set(rows)) > 50  # Something is drawn.
    dark, _ = corner(tmp_path, whole_page, '--blink-settings=preferredColorScheme=0')
    assert dark == (20, 24, 29)
