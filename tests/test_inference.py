"Plumbing of ftcook.inference on tiny random models: what the lesson does not show."
import json, warnings
import pytest, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from ftcook.inference import AdapterError, choices_fn, generate_validated, load_adapter, save_for_serving
from ftcook.runtime import model_path
from ftcook.tasks import parse_answer
from ftcook.tasks.flights import flight_schema

def tiny(vocab_size=64, hidden_size=32, name='tiny'):
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=48, num_hidden_layers=1,
                        num_attention_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model = LlamaForCausalLM(shape)
    model.name_or_path = model.config._name_or_path = name
    return model

def save_adapter(folder, base=None, **kwargs):
    lora = LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM', init_lora_weights=False, **kwargs)
    get_peft_model(base or tiny(), lora).save_pretrained(folder)
    return folder

@pytest.fixture
def adapter(tmp_path): return save_adapter(tmp_path/'adapter')

def test_loads_without_a_warning(adapter):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        model = load_adapter(tiny(), adapter, 'one')
        model = load_adapter(model, adapter, 'two')
    assert set(model.peft_config) == {'one', 'two'} and not model.training

def test_other_base_is_named(adapter):
    with pytest.raises(AdapterError, match='trained with .*=32, this base has 64.*trained on tiny'):
        load_adapter(tiny(hidden_size=64), adapter)
    with pytest.warns(UserWarning, match='trained on tiny, loaded on another'): load_adapter(tiny(name='another'), adapter)

def test_another_vocabulary(tmp_path):
    folder = save_adapter(tmp_path/'a', tiny(70), modules_to_save=['embed_tokens'])
    with pytest.raises(AdapterError, match=r'num_embeddings=70.*resize_token_embeddings\(70\)'): load_adapter(tiny(64), folder)

def test_pickle_weights_are_refused(adapter):
    (adapter/'adapter_model.safetensors').rename(adapter/'adapter_model.bin')
    with pytest.raises(AdapterError, match='pickle'): load_adapter(tiny(), adapter)

@pytest.mark.parametrize('text', ['', 'null', '[]', '{}', '{"action": NaN}', '{"action":"book"', '"x"', '1e999'])
def test_no_bad_answer_is_accepted(text):
    o = parse_answer(text, flight_schema)
    assert o.value is None and o.errors

def test_retries_are_counted(monkeypatch):
    good = json.dumps(dict(action='book', origin='Oslo', destination='Lima', date='2027-03-01', max_price=9, currency='EUR'))
    written = iter([['no', good], ['no'], ['no']])
    monkeypatch.setattr('ftcook.inference.generate_batch', lambda *args, **kwargs: next(written))
    out = generate_validated(None, None, [[], []], flight_schema, max_tries=3)
    assert [o.tries for o in out] == [3, 1] and out[0].errors and out[1].value['origin'] == 'Oslo'

def test_choices_fn_follows_the_choices():
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    allowed, (a, b) = choices_fn(tokenizer, ['search', 'book'], 2), (tokenizer(o)['input_ids'] for o in ('search', 'book'))
    assert allowed(0, torch.tensor([7, 7])) == sorted({a[0], b[0]})
    end = tokenizer.eos_token_id
    assert allowed(0, torch.tensor([7, 7, *b])) == [end] == allowed(0, torch.tensor([7, 7, *b, end]))

def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    tokenizer, model = AutoTokenizer.from_pretrained(model_path()), tiny()
    adapted = get_peft_model(tiny(), LoraConfig(target_modules='all-linear'))
    with pytest.raises(ValueError, match='merge it first'): save_for_serving(adapted, tokenizer, tmp_path/'s', 'tiny', 'mit')
    monkeypatch.setattr(tokenizer, 'save_pretrained', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): save_for_serving(model, tokenizer, tmp_path/'s', 'tiny', 'mit')
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    folder = save_for_serving(model, tokenizer, tmp_path/'s', 'tiny', 'mit')
    assert {o.suffix for o in folder.iterdir()} <= {'.json', '.safetensors', '.jinja', '.md'}
    assert json.loads((folder/'generation_config.json').read_text())['eos_token_id'] == tokenizer.eos_token_id
