"""``promptmm serve`` in a process of its own, over loopback, with a real client."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.serving import Recommender

for package in ('fastapi', 'prometheus_client', 'uvicorn'):
    pytest.importorskip(package, reason='requires the extra serve')
httpx = pytest.importorskip('httpx', reason='requires httpx')
DOCKERFILE = Path(__file__).parents[2] / 'examples' / 'Dockerfile'


def make_recommender():
    g = torch.Generator().manual_seed(0)
    return Recommender(
        torch.randn(300, 16, generator=g),
        torch.randn(2000, 16, generator=g),
        user_ids=list(range(100, 400)),
        item_ids=[f'i{number}' for number in range(2000)],
        seen=torch.stack([torch.arange(300), torch.arange(300) * 2]),
        titles={'i3': 'Ünïcode "3"'},
    )


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """The recommender, a client, and the process of the server."""
    folder = tmp_path_factory.mktemp('served') / 'model'
    model = make_recommender()
    model.save(folder)
    words = ['serve', str(folder), '--port', '0', '--max-users', '64']
    command = [sys.executable, '-m', 'promptmm_pyg', *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith('serving 300 users and 2000 items at http://127.0.0.1:')
        (address,) = re.findall(r'at (http://\S+)', line)
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            yield model, client, psutil.Process(process.pid)
        process.send_signal(signal.SIGTERM)  # As `docker stop` does.
        assert (process.wait(120), process.stderr.read()) == (0, '')


def lists(result):
    return [
        [(raw, score) for raw, score in zip(*row, strict=True) if raw is not None]
        for row in zip(result.ids.tolist(), result.scores.tolist(), strict=True)
    ]


def answered(response):
    assert response.status_code == 200, response.text
    return [[(x['item'], x['score']) for x in row] for row in response.json()['lists']]


@pytest.mark.parametrize(
    ('path', 'request_', 'call'),
    [
        ('recommend', {'users': [100, '301']}, lambda m: m.recommend([100, 301])),
        (
            'recommend',
            {'users': [107], 'k': 3, 'exclude_seen': False, 'deny': ['i5']},
            lambda m: m.recommend([107], 3, exclude_seen=False, deny=['i5']),
        ),
        (
            'recommend',
            {'users': [100, 101], 'candidates': {'100': ['i9', 'i3']}},
            lambda m: m.recommend([100, 101], candidates={100: ['i9', 'i3']}),
        ),
        (
            'recommend',
            {'users': [100], 'allow': ['i9', 'i3'], 'exclude': {'100': ['i9']}},
            lambda m: m.recommend([100], allow=['i3']),
        ),
        (
            'recommend',
            {'users': [100, 'nobody'], 'unknown': 'ignore'},
            lambda m: m.recommend([100, 'nobody'], unknown='ignore'),
        ),
        ('similar', {'items': ['i4'], 'k': 5}, lambda m: m.similar_items(['i4'], 5)),
        (
            'history',
            {'histories': [['i4', 'i5'], ['i7']], 'k': 4},
            lambda m: m.recommend_from_history([['i4', 'i5'], ['i7']], 4),
        ),
    ],
)
def test_an_answer_is_that_of_the_recommender(served, path, request_, call):
    model, client, _ = served
    response = client.post(f'/{path}', json=request_)
    expected = lists(call(model))
    found = answered(response)
    assert [[raw for raw, _ in row] for row in found] == [
        [raw for raw, _ in row] for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        assert [x for _, x in row] == pytest.approx([x for _, x in other], rel=1e-5)


def test_titles_and_an_empty_list_are_shown(served):
    _, client, _ = served
    request = {'users': [100], 'candidates': {'100': ['i3']}}
    (row,) = client.post('/recommend', json=request).json()['lists']
    assert row[0]['title'] == 'Ünïcode "3"'
    assert client.post(
        '/recommend', json={'users': ['x'], 'unknown': 'ignore'}
    ).json() == {'lists': [[]]}


@pytest.mark.parametrize(
    ('path', 'content', 'status', 'match'),
    [
        ('recommend', {'users': list(range(65))}, 422, "'users' must have at most 64"),
        ('recommend', {'users': []}, 422, "'users' must have at least 1"),
        ('recommend', {'users': [1.5]}, 422, "'users.0' must be an integer or text"),
        ('recommend', {'users': [True]}, 422, 'must be an integer or text (got True)'),
        ('recommend', {'users': ['nobody']}, 422, "'users' must contain known ids"),
        ('recommend', {'users': [100], 'k': 101}, 422, "'k' must be less than or"),
        ('recommend', {'users': [100], 'n': 1}, 422, "'n' must be left out"),
        ('recommend', {'users': [100], 'allow': [], 'deny': []}, 422, "'allow' and"),
        ('recommend', {'k': 3}, 422, "'users' must be given"),
        ('recommend', b'{"users": [1', 422, 'the request must be JSON'),
        ('recommend', b'7', 422, 'the request must be a JSON object'),
        ('history', {'histories': [['x']]}, 422, "'histories[0]' must contain"),
        ('nothing', {}, 404, 'Not Found'),
    ],
)
def test_a_bad_request_gets_one_line(served, path, content, status, match):
    _, client, _ = served
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = {'content-type': 'application/json'}
    response = client.post(f'/{path}', content=body, headers=head)
    detail = response.json()['detail']
    assert (response.status_code, match in detail) == (status, True), detail
    assert '\n' not in detail
    assert len(detail) < 250


@pytest.mark.parametrize('streamed', [False, True])
def test_a_request_of_a_million_users_is_refused(served, streamed):
    _, client, _ = served
    body = json.dumps({'users': list(range(10**6))}).encode()
    pieces = iter([body[: 2**20], body[2**20 :]])
    response = client.post('/recommend', content=pieces if streamed else body)
    assert response.status_code == 413
    assert response.json()['detail'] == (
        'the request must have at most 1,048,576 bytes (got 7,888,901). '
        'Send several requests'
    )


def test_health_metrics_and_the_page_of_arguments(served):
    _, client, _ = served
    health = client.get('/health').json()
    assert (health['status'], health['users'], health['items']) == ('ok', 300, 2000)
    client.post('/similar', json={'items': ['i1', 'i2']})
    text = client.get('/metrics').text
    assert 'promptmm_request_seconds_count{path="/similar",status="200"}' in text
    assert '\npromptmm_items 2000.0\n' in text
    api = client.get('/openapi.json').json()
    assert {'/recommend', '/similar', '/history', '/health'} <= set(api['paths'])
    assert client.get('/docs').status_code == 200


def test_under_load_every_answer_is_that_of_the_recommender(served):
    model, client, process = served
    users = list(range(100, 400))
    expected = lists(model.recommend(users, 20))
    seconds: list[float] = []

    def visit(number):
        own = users[number % 10 :: 32]
        for user in own:
            started = time.perf_counter()
            response = client.post('/recommend', json={'users': [user], 'k': 20})
            seconds.append(time.perf_counter() - started)
            (found,) = answered(response)
            ids, scores = zip(*expected[user - 100], strict=True)
            assert tuple(raw for raw, _ in found) == ids
            assert [x for _, x in found] == pytest.approx(scores, rel=1e-5)
        return len(own)

    before, started = sum(process.cpu_times()[:2]), time.perf_counter()
    with ThreadPoolExecutor(32) as clients:
        total = sum(clients.map(visit, range(32)))
    rate = total / (time.perf_counter() - started)
    seconds.sort()
    median, p99 = (1e3 * seconds[int(q * total)] for q in (0.5, 0.99))
    cpu = 1e3 * (sum(process.cpu_times()[:2]) - before) / total
    print(
        f'{total} requests of 32 clients: {rate:.0f} per s, median {median:.1f} ms, '
        f'p99 {p99:.1f} ms, {cpu:.2f} ms of the processor each'
    )
    assert total == len(seconds) > 250


def test_a_port_in_use_is_found_before_any_work(capsys):
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        assert main(['serve', 'runs/not-there', '--port', str(port)]) == 2
    error = capsys.readouterr().err
    assert f'--port must be free (got {port}, in use)' in error
    assert main(['serve', 'runs/not-there', '--port', '70000']) == 2
    assert main(['serve', 'runs/not-there', '--host', '203.0.113.1']) == 2
    assert main(['serve', 'runs/not-there', '--max-users', '0']) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(' must be ' in line for line in lines)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert main(['serve', 'runs/not-there']) == 2
    assert 'pip install ".[serve]"' in capsys.readouterr().err


def test_the_dockerfile_serves_what_it_copies():
    """No Docker here: the instructions that are known to be wrong when missing."""
    lines = DOCKERFILE.read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith(('#', ' '))]
    kinds = [word[0] for word in words]
    assert kinds[0] == 'ARG' or kinds[0] == 'FROM'
    assert {'FROM', 'RUN', 'COPY', 'USER', 'EXPOSE', 'HEALTHCHECK', 'CMD'} <= set(kinds)
    (command,) = [line for line in lines if line.startswith('CMD')]
    program, name, *options = json.loads(command.removeprefix('CMD'))
    assert (program, name) == ('promptmm', 'serve')
    from promptmm_pyg.cli import build_parser

    args = build_parser('serve').parse_args([name, *options])
    assert args.host == '0.0.0.0'
    assert f'EXPOSE {args.port}' in lines
    assert any(word[0] == 'COPY' and word[-1] == args.folder for word in words)
