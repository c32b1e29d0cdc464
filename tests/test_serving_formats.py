"What lesson 05b converts, renders and would publish, on a tiny model."
import json
import gguf, numpy as np, pytest, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from ftcook.runtime import model_path
from ftcook.serving_formats import GGUFError, modelfile, ollama_prompt, ollama_template, push_plan, read_call, to_gguf

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp('model'), AutoTokenizer.from_pretrained(model_path())
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

def tensors(file): return {t.name: t for t in gguf.GGUFReader(file).tensors}

def test_every_tensor_arrives_and_queries_are_reordered(folder, tmp_path):
    kept = tensors(to_gguf(folder, tmp_path/'a.gguf', 'F32'))
    model = LlamaForCausalLM.from_pretrained(folder)
    assert len(kept) == len(dict(model.named_parameters()))
    def same(name, w): return np.allclose(kept[name].data.reshape(w.shape), w.detach().numpy())
    layer = model.model.layers[1]
    assert same('blk.1.ffn_down.weight', layer.mlp.down_proj.weight)
    assert same('blk.1.attn_v.weight', layer.self_attn.v_proj.weight)
    q, head = layer.self_attn.q_proj.weight, 16
    assert not same('blk.1.attn_q.weight', q)
    order = [h*head + half*head//2 + i for h in range(4) for i in range(head//2) for half in (0, 1)]
    assert same('blk.1.attn_q.weight', q[order])
    k = layer.self_attn.k_proj.weight
    assert same('blk.1.attn_k.weight', k[[i for i in order if i < len(k)]])

def test_eight_bits_are_smaller_and_close(folder, tmp_path):
    wide, narrow = (to_gguf(folder, tmp_path/f'{kind}.gguf', kind) for kind in ('F32', 'Q8_0'))
    assert narrow.stat().st_size < .6*wide.stat().st_size
    a, b = (tensors(f)['blk.0.ffn_up.weight'] for f in (wide, narrow))
    assert np.abs(gguf.dequantize(b.data, b.tensor_type) - a.data).max() < .01*np.abs(a.data).max()

def test_it_carries_template_and_vocabulary(folder, tmp_path):
    fields = gguf.GGUFReader(to_gguf(folder, tmp_path/'a.gguf')).fields
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert fields['tokenizer.chat_template'].contents() == tokenizer.chat_template
    assert fields['tokenizer.ggml.tokens'].contents() == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields['tokenizer.ggml.eos_token_id'].contents() == 2

def test_another_architecture_is_refused_and_nothing_is_left(folder, tmp_path):
    other = tmp_path/'other'
    other.mkdir()
    for name in ('config.json', 'tokenizer.json'): (other/name).write_bytes((folder/name).read_bytes())
    (other/'config.json').write_text(json.dumps(dict(json.loads((other/'config.json').read_text()), model_type='gemma3')))
    with pytest.raises(GGUFError, match='gemma3.*convert_hf_to_gguf'): to_gguf(other, tmp_path/'x.gguf')
    assert not (tmp_path/'x.gguf').exists()

@pytest.mark.parametrize('system', ['', 'Be brief.'])
def test_ollama_builds_the_prompt_of_training(system):
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    messages = [dict(role='system', content=system)]*bool(system) + [dict(role='user', content='Hi {{ there }}')]
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    found = ollama_prompt(ollama_template, system, 'Hi {{ there }}')
    assert found == wanted if system else wanted.endswith(found) # without one, this model's template brings its own
    assert modelfile('m.gguf', system).startswith('FROM ./m.gguf\n') and ('SYSTEM' in modelfile('m.gguf', system)) == bool(system)

def test_a_call_is_read_or_refused():
    schema = dict(type='object', required=['a'], properties=dict(a=dict(type='integer')))
    tools = [dict(function=dict(name='add', parameters=schema))]
    name, call = read_call('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', tools)
    assert (name, call.value) == ('add', {'a': 1})
    assert read_call('<tool_call>{"name": "add", "arguments": {"a": "1"}}</tool_call>', tools)[1].errors
    for text in ('add(1)', '<tool_call>{"name": "sub"}</tool_call>', '<tool_call>[]</tool_call>', '<tool_call>{</tool_call>'):
        assert read_call(text, tools) == (None, None)

@pytest.mark.parametrize('name', ['train.jsonl', '.env', 'pytorch_model.bin', 'logs/run.log'])
def test_what_stays_at_home(tmp_path, name):
    (tmp_path/'README.md').write_text('card')
    assert push_plan(tmp_path) == [('README.md', 4)]
    (tmp_path/name).parent.mkdir(exist_ok=True)
    (tmp_path/name).write_text('x')
    with pytest.raises(ValueError, match='stay at home'): push_plan(tmp_path)
