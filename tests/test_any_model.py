"Architectures beyond Llama: the formula refuses them by name, the trace knows them, a sketch of few layers says the same."
import json
import pytest
from transformers import AutoConfig
from ftcook.cli import main
from ftcook.cost import Traced, compare, estimate
from ftcook.planning import calibration, fastest, formula_peak, like_llama
from ftcook.quantization import model_bytes, text_model_class
from ftcook.runs import Run
from ftcook.runtime import all_shapes, find_model, model_config
from ftcook.trace import sketch, trace_step

plain = dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64, intermediate_size=512, vocab_size=4096,
    pad_token_id=0, bos_token_id=1, eos_token_id=2)

def small(kind, layers=3, **more): return AutoConfig.for_model(kind, **plain | dict(num_hidden_layers=layers) | more)

def experts(layers=3): return small('mixtral', layers, num_local_experts=4)

@pytest.mark.parametrize('kind', like_llama)
def test_the_formula_knows_what_it_says_it_knows(kind):
    config = small(kind, hidden_size=1024, num_attention_heads=16, num_key_value_heads=4, intermediate_size=2816, vocab_size=8192,
        tie_word_embeddings=False)
    for how in (dict(method='lora', gradient_checkpointing='none'), dict(method='full')):
        run = Run(config, max_length=512, **how)
        assert sum(formula_peak(run)[0].values()) == pytest.approx(trace_step(run).peak, rel=.08)

@pytest.mark.parametrize('kind', ['mixtral', 'qwen3_moe', 'gemma3_text', 'phi', 'deepseek_v3', 'gpt_oss'])
def test_the_formula_refuses_what_it_does_not_know(kind):
    for refused in (lambda: estimate(AutoConfig.for_model(kind)), lambda: fastest(AutoConfig.for_model(kind), gpu_gib=80)):
        with pytest.raises(ValueError, match=f"^{kind}: the formula knows .*--trace.*depth='trace'.*Traced"): refused()

def test_no_language_model():
    for kind in ('bert', 't5', 'vit'):
        with pytest.raises(ValueError, match=f'{kind}: transformers has no model'): text_model_class(AutoConfig.for_model(kind))

@pytest.mark.parametrize('config', [small('llama', 9), experts(8), small('gemma3_text', 20, sliding_window=128),
    small('qwen3_moe', 8, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=128)], ids=lambda c: c.model_type)
def test_a_sketch_says_what_the_trace_says(config):
    for how in (dict(), dict(method='full', gradient_checkpointing='none'),
                dict(method='lora', gradient_checkpointing='every-3')):
        run = Run(config, max_length=256, per_device_train_batch_size=2, **how)
        short, whole = sketch(run), trace_step(run)
        assert short.peak == pytest.approx(whole.peak, rel=.005)
        for k,v in whole.work.items(): assert short.work[k] == pytest.approx(v, rel=.02), k

def test_a_product_with_experts_is_counted():
    dense, routed = (trace_step(Run(c, 'lora', max_length=256)).work['matmul'] for c in (small('mistral'), experts()))
    assert 1.3*dense < routed < 2*dense                           # two experts of four for each token

def test_fastest_with_traces():
    choice = fastest(experts(6), 'lora', gpu_gib=4, lengths=512, count=Traced())
    traced = trace_step(Run(experts(6), 'lora', max_length=512,
        **{k: getattr(choice.run, k) for k in ('per_device_train_batch_size', 'gradient_checkpointing')}))
    assert choice.gib == pytest.approx(traced.peak/2**30 + calibration().workspace_mib/1024, rel=.05) and choice.gib < 4

def test_remedies_and_every_gpu_by_traces():
    e = estimate(experts(), depth='trace', method='full', gradient_checkpointing='none', gpu='1.45 GiB')
    assert not e.fits and e.step_s is None and any('checkpointing' in o for o in e.remedies)
    assert len({e.gpu for e in compare(experts(2), depth='trace', max_length=256)}) > 5

def test_optimizers_that_the_trace_does_not_know():
    with pytest.raises(ValueError, match='optim=.sgd.*adamw_torch'): trace_step(Run(experts(), optim='sgd'))

@pytest.mark.parametrize('name, weights', [('Llama-2-7B', 6_738_415_616), ('Llama-3.1-70B', 70_553_706_496),
    ('Qwen2.5-14B', 14_770_033_664), ('Qwen3-8B', 8_190_735_360), ('Qwen3-30B-A3B', 30_532_122_624),
    ('Mixtral-8x7B', 46_702_792_704), ('Phi-3-mini', 3_821_079_552), ('Gemma-3-1B', 999_885_952)])
def test_shapes_have_the_published_number_of_weights(name, weights):
    assert model_bytes(model_config(name))['unquantized'] == 2*weights

@pytest.mark.parametrize('asked, meant', [('Qwen/Qwen3-8B', 'Qwen3-8B'),
    ('meta-llama/Meta-Llama-3.1-8B-Instruct', 'Llama-3.1-8B'),
    ('Qwen2.5-7B-Instruct', 'Qwen2.5-7B'), ('unsloth/Qwen2.5-7B-Instruct-bnb-4bit', 'Qwen2.5-7B'),
    ('llama 3.1 8b', 'Llama-3.1-8B'),
    ('mistralai/Mixtral-8x7B-Instruct-v0.1', 'Mixtral-8x7B'), ('Mistral-7B-v0.3', 'Mistral-7B')])
def test_names_as_they_are_typed(asked, meant): assert find_model(asked) == meant

def test_every_shape_has_its_longest_row():
    for name,shape in all_shapes.items(): assert shape['max_position_embeddings'] >= 2048, name

@pytest.mark.parametrize('gpu, gib', [('24 GB', 24e9/2**30), ('24gb', 24e9/2**30), ('24', 24e9/2**30), ('23.5 GiB', 23.5)])
def test_a_gpu_by_its_memory(gpu, gib):
    e = estimate('SmolLM2-135M', gpu=gpu, tokens=1e6)
    assert e.capacity_gib == pytest.approx(gib) and e.fits and e.hours is e.usd is None and 'name of a GPU' in e.note
    json.dumps(e.to_dict()), str(e), e.line()

@pytest.mark.parametrize('wrong, said', [('--memory 0', 'memory=0'), ('--memory nan', 'memory=nan'),
    ('--memory 24 --gpu L40S', 'one of'),
    ('--data none.jsonl', 'none.jsonl'), ('--data rows.jsonl --tokens 5M', 'tokens and data'),
    ('--data rows.jsonl --epochs 0', 'epochs=0'), ('--data empty.jsonl', 'ftcook check'), ('--dtype int4', 'bfloat16'),
    ('--gpu 0GB', 'gpu=0')])
def test_what_cannot_be(wrong, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = dict(messages=[dict(role='user', content='hello'), dict(role='assistant', content='good day')])
    (tmp_path/'rows.jsonl').write_text(json.dumps(row) + '\n')
    (tmp_path/'empty.jsonl').write_text('')
    assert main(['estimate', 'smollm2-135m', *wrong.split()]) == 2
    assert said in capsys.readouterr().err

def test_tokens_of_a_file(tmp_path):
    turns = [dict(role='user', content='hello'), dict(role='assistant', content='good day')]
    rows = tmp_path/'rows.jsonl'
    rows.write_text((json.dumps(dict(messages=turns)) + '\n')*10)
    one, three = (estimate('embedded', data=rows, epochs=n) for n in (1, 3))
    assert three.tokens == pytest.approx(3*one.tokens) and one.tokens == 10*one.run.max_length   # rows of one length: no padding
    assert 'embedded' not in one.note and '10 rows' in one.note
    rows.write_text(json.dumps(dict(prompt=turns[:1], chosen=turns[1:], rejected=[dict(turns[1], content='no')])) + '\n')
    assert ', '.join(estimate('embedded', data=rows, method='dpo').note.split(', ')[:1]).endswith('1 rows')
