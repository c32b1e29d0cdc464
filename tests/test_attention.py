"""The measuring script survives jobs that fail, hang or take their process with them."""
import csv, sys
import pytest
from conftest import root

@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'nbs'/'measurements'))
    import attention
    return attention

def process(code): return [sys.executable, '-c', code]

def measured(bench, code, part='limits', **kwargs):
    "What `run` keeps and leaves of two jobs when its process runs `code`."
    kept, todo = [], [dict(implementation='eager', case='first'), dict(implementation='eager', case='second')]
    if part == 'kernels': todo = [dict(implementation='eager', head_dim=64, seq_len=n, tokens=1024, hidden=128) for n in (128, 256)]
    left = bench.run(part, todo, 'cpu', kept.extend, **(dict(seconds=20, command=process(code)) | kwargs))
    return kept, left

def test_a_lost_process_costs_one_job(bench):
    kept, left = measured(bench, 'raise SystemExit("CUDA error: an illegal memory access was encountered")')
    assert [(r['case'], r['status']) for r in kept] == [(c, 'CUDA error: an illegal memory access was encountered') for c in ('first', 'second')] and not left

def test_a_job_that_hangs_is_ended(bench):
    kept, left = measured(bench, 'import time; time.sleep(60)', limit=.2, seconds=3)
    assert [r['status'] for r in kept] == ['no answer in 0.2 s']*2 and not left

def test_the_time_is_kept(bench):
    kept, left = measured(bench, 'import time; time.sleep(60)', seconds=1)
    assert not kept and len(left) == 2

def test_failure_has_the_columns_of_success(bench, tmp_path):
    job = dict(implementation='eager', head_dim=64, seq_len=128, tokens=256, hidden=64)
    good, bad = bench.kernel(job, False, dict(ceiling_tflops=1, copy_gb_s=1)), bench.failed('kernels', job, 'out of memory')
    assert [list(r) for r in good] == [list(r) for r in bad] and {r['status'] for r in bad} == {'out of memory'}

def test_jobs_finish_with_a_figure_or_a_reason(bench, tmp_path):
    row = bench.kernel(dict(implementation='sdpa_math', head_dim=64, seq_len=128, tokens=256, hidden=64), False, {})[-1]
    assert row['pass'] == 'both' and row['ms'] > 0 and row['peak_mib'] > row['kept_mib'] > 0
    assert bench.limit(dict(implementation='sdpa_flash', case='dropout'), False, {})[0]['status'] != 'runs'
    step = next(j for j in bench.jobs('training', True, False) if j['case'] == 'one padding token')
    assert bench.training(step, False, {})[0]['tokens_per_s'] > 0
