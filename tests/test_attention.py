"""The measuring script survives jobs that fail, hang or take their process with them."""
import sys
import pytest
from conftest import root

@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'nbs'/'measurements'/'attention'))
    import attention
    return attention

def process(code): return [sys.executable, '-c', code]

def measured(bench, code, part='limits', **kwargs):
    "What `run` keeps and leaves of two jobs when its process runs `code`."
    kept, todo = [], [dict(implementation='eager', case='first'), dict(implementation='eager', case='second')]
    left = bench.run(part, todo, 'cpu', kept.extend, **(dict(seconds=20, command=process(code)) | kwargs))
    return kept, left

def test_a_lost_process_costs_one_job(bench):
    said = 'CUDA error: an illegal memory access was encountered'
    kept, left = measured(bench, f'raise SystemExit({said!r})')
    assert [(r['case'], r['status']) for r in kept] == [('first', said), ('second', said)] and not left

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

# --- ftcook.attention

def refusals(*args, **kwargs):
    from ftcook.attention import attention_refusals
    return attention_refusals(*args, **(dict(capability=(9,0), packages={'flash-attn': '2.8.3.post2'}) | kwargs))

def test_model_may_be_named_or_given():
    from transformers import AutoConfig, AutoModelForCausalLM
    def small(**kwargs):
        return AutoConfig.for_model('llama', num_hidden_layers=1, hidden_size=64, intermediate_size=64, num_attention_heads=2,
                                    num_key_value_heads=1, vocab_size=32, **kwargs)
    config, wide = small(), small(head_dim=320)
    assert refusals('Mistral-7B') == refusals(config) == refusals('embedded')
    assert refusals(config) == refusals(AutoModelForCausalLM.from_config(config))
    assert refusals(wide) == refusals(AutoModelForCausalLM.from_config(wide)) != refusals(config)

def test_one_reason_for_each_fault():
    from transformers import AutoConfig
    dropout = AutoConfig.for_model('llama', attention_dropout=.1)
    assert 'attention_dropout=0.1' in refusals(dropout, packages={'flash-attn-3': '3.0.0b1'})['flash_attention_3'][0]
    assert not refusals(dropout, packages={'flash-attn-3': '3.0.0b1'}, training=False)['flash_attention_3']
    assert refusals(dropout)['flash_attention_2'] == [] == refusals('Mistral-7B', 'float16')['flash_attention_2']
    assert not refusals('Mistral-7B', capability=None, training=False)['flex_attention']
    assert 'float32' in refusals('Mistral-7B', 'float32')['flash_attention_2'][0]

def test_choice_is_the_name(tmp_path):
    from ftcook.attention import choose_attention
    from ftcook.quantization import load_model
    choice = choose_attention('embedded', 'float32', capability=None)
    assert choice == 'sdpa' and 'flash_attention_2' in choice.refused and '`flash_attention_2`' in choice._repr_markdown_()
    model = load_model(attention=choice)
    assert model.config._attn_implementation == 'sdpa'
    model.config.save_pretrained(tmp_path)

@pytest.mark.parametrize('n,block', [(1, 64), (63, 64), (65, 64), (100, 7)])
def test_tiles_cover_the_mask_once(n, block):
    import torch
    from ftcook.attention import causal, tiles
    seen, found = torch.zeros(n, n, dtype=torch.int), list(tiles(n, causal, block))
    for rows,columns,allowed in found: seen[rows, columns] += 1 if allowed is None else allowed.int()
    assert (seen == torch.ones(n, n, dtype=torch.int).tril()).all()
    blocks = -(-n//block)
    assert len(found) == blocks*(blocks + 1)//2  # the empty ones above the diagonal are left out

def test_tiled_attention_of_any_length_and_large_scores():
    import torch
    from ftcook.attention import causal, standard_attention, tiled_attention
    torch.manual_seed(0)
    for n in (1, 5, 64, 97):
        q, k, v = (torch.randn(2, n, 16, dtype=torch.float64, requires_grad=True) for _ in range(3))
        for scale in (1, 300):
            def gradients(attend, q=q, k=k, v=v, scale=scale):
                return torch.autograd.grad(attend(q*scale, k, v, causal).pow(2).sum(), (q, k, v))
            a, b = gradients(standard_attention), gradients(tiled_attention)
            assert max(((x - y).norm()/(1 + x.norm())).item() for x,y in zip(a, b)) < 1e-10
