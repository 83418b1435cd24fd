import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

START = """
import multiprocessing, os, time
from benchmarks.workers import end_with_parent

def work():
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == '__main__':
    process = multiprocessing.get_context('spawn').Process(target=work)
    process.start()
    process.join()
"""


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='requires /proc')
def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / 'parent.py'
    script.write_text(START)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(Path.cwd())},
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _alive(worker)
        parent.kill()
        parent.wait()
        for _ in range(100):
            if not _alive(worker):
                break
            time.sleep(0.1)
        assert not _alive(worker)


def _alive(pid: int) -> bool:
    stat = Path(f'/proc/{pid}/stat')
    # An ended process that nobody has asked about is a zombie.
    return stat.exists() and stat.read_text().rsplit(')', 1)[1].split()[0] != 'Z'
