"Plumbing of ftcook.lora: argument names, sources of a shape, and what a saved adapter holds."
import pytest, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from ftcook.lora import adapter_size, lora_config
from ftcook.runtime import model_config

tiny = AutoConfig.for_model('llama', hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=128)

def test_defaults():
    c = lora_config()
    assert isinstance(c, LoraConfig)
    assert (c.r, c.lora_alpha, c.lora_dropout) == (16, 32, 0.0)
    assert (c.target_modules, c.task_type, c.bias) == ('all-linear', 'CAUSAL_LM', 'none')

def test_alpha_stays_when_the_rank_changes():
    assert lora_config(64).lora_alpha == lora_config(8).lora_alpha == 32
    assert lora_config(64, lora_alpha=7).lora_alpha == 7
    assert lora_config(64, lora_alpha=0).lora_alpha == 0

def test_other_arguments_pass_through():
    c = lora_config(use_rslora=True, task_type='SEQ_CLS', modules_to_save=['score'])
    assert c.use_rslora and c.task_type == 'SEQ_CLS' and c.modules_to_save == ['score']
    with pytest.raises(TypeError): lora_config(rank=8)

@pytest.mark.parametrize('kwargs', [{}, dict(use_dora=True), dict(init_lora_weights='pissa'), dict(target_modules=['q_proj']),
    dict(rank_pattern=dict(q_proj=2))])
def test_size_is_that_of_a_real_adapter(kwargs, tmp_path):
    size = adapter_size(tiny, lora_config(4, **kwargs))
    model = get_peft_model(AutoModelForCausalLM.from_config(tiny), lora_config(4, **kwargs))
    assert (size.trainable, size.total) == model.get_nb_trainable_parameters()
    model.save_pretrained(tmp_path)
    content = (tmp_path/'adapter_model.safetensors').read_bytes()
    assert size.bytes == len(content) - 8 - int.from_bytes(content[:8], 'little')

def test_model_and_config_agree_and_model_stays_as_it_was():
    model = AutoModelForCausalLM.from_config(tiny)
    names = [n for n,_ in model.named_modules()]
    assert adapter_size(model) == adapter_size(tiny)
    assert names == [n for n,_ in model.named_modules()] and all(p.requires_grad for p in model.parameters())

def test_config_is_not_changed():
    c = lora_config(init_lora_weights='olora')
    adapter_size(tiny, c)
    assert c.init_lora_weights == 'olora' and c.target_modules == 'all-linear'

def test_dtype_halves_bytes():
    assert adapter_size(tiny, dtype='bfloat16').bytes*2 == adapter_size(tiny).bytes

@pytest.mark.parametrize('name,weights', [('SmolLM2-135M', 134_515_008), ('Llama-3.2-1B', 1_235_814_400),
    ('Mistral-7B', 7_248_023_552), ('Llama-3-8B', 8_030_261_248), ('Qwen2.5-7B', 7_615_616_512)])
def test_shapes_have_the_published_number_of_weights(name, weights):
    with torch.device('meta'): model = AutoModelForCausalLM.from_config(model_config(name))
    assert model.num_parameters() == weights

def test_a_model_by_any_of_its_names():
    assert adapter_size('mistral-7b') == adapter_size('Mistral-7B') == adapter_size(model_config('mistral 7b'))
    assert adapter_size('embedded') == adapter_size('SmolLM2-135M')
