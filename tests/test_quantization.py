"""Guards of ftcook.quantization: what would go wrong silently, or only on other machines."""
import importlib.util
import pytest, torch
from transformers import LlamaConfig, LlamaForCausalLM
from ftcook import quantization as q

def tiny(folder, hidden=64):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=96, hidden_size=hidden, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tiny(tmp_path_factory.mktemp('tiny'))

IDS = torch.arange(90) * 37 % 96

@pytest.mark.parametrize('quantize', q.formats)
def test_bytes_computed_are_bytes_stored(folder, quantize):
    model = q.load_model(folder, quantize)
    expected = q.model_bytes(model.config, quantize, 'float32')
    assert q.stored_bytes(model) == expected
    with torch.inference_mode(): model(IDS[None].to(model.device))
    assert q.stored_bytes(model) == expected  # a forward pass must not change what is stored

@pytest.mark.parametrize('quantize', ['fp4', 'nf4', 'nf4-double'])
def test_evaluation_does_not_change_gradients(folder, quantize):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(q.load_model(folder, quantize), LoraConfig(r=4, target_modules='all-linear', init_lora_weights=False))
    x = IDS[None].to(model.device)
    def gradients():
        model.train(); model.zero_grad()
        model(input_ids=x, labels=x).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    before = gradients()
    model.eval()
    with torch.no_grad(): evaluated = model(input_ids=x, labels=x).loss
    model.train()
    assert torch.allclose(gradients(), before, atol=1e-6)
    assert torch.allclose(model(input_ids=x, labels=x).loss, evaluated, atol=1e-5)

@pytest.mark.skipif(torch.cuda.is_available(), reason='a CPU matter')
def test_rows_that_a_cpu_restores_wrongly_are_refused(tmp_path):
    with pytest.raises(ValueError, match='rows of 96.*multiple of 64'): q.load_model(tiny(tmp_path, 96), 'nf4')
    q.load_model(str(tmp_path), 'int8')

def test_pickled_weights_are_refused(folder, tmp_path):
    model = q.load_model(folder)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path/'pytorch_model.bin')
    with pytest.raises(OSError, match='safetensors'): q.load_model(str(tmp_path))

def test_errors_name_the_remedy(monkeypatch):
    with pytest.raises(ValueError, match='use one of none, int8, fp4, nf4, nf4-double'): q.quantization_config('NF4')
    with pytest.raises(ValueError, match='use one of float32, bfloat16, float16'): q.quantization_config('nf4', 'fp8')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert q.quantization_config('none') is None
    with pytest.raises(ImportError, match="pip install 'bitsandbytes"): q.quantization_config('nf4')

def test_blocks():
    levels = q.nf4_levels()
    zeros = torch.zeros(4, 64)
    assert torch.equal(q.dequantize_blocks(*q.quantize_blocks(zeros, levels), levels, zeros.shape), zeros)
    with pytest.raises(ValueError, match='blocks of 64'): q.quantize_blocks(torch.ones(100), levels)

@pytest.mark.parametrize('n,window,stride', [(90, 90, None), (90, 500, None), (64, 16, None), (64, 16, 8), (64, 16, 1),
                                             (70, 16, 8), (2, 16, None)])
def test_each_token_is_scored_once_with_its_context(folder, n, window, stride):
    model = q.load_model(folder)
    got = q.token_losses(model, None, IDS[:n], window=window, stride=stride, batch_size=3)
    w = min(window, n); s = min(stride or w, w)
    want = []
    with torch.inference_mode():
        for start in range(0, n - w + 1, s):
            ids = IDS[start:start + w].to(model.device)
            loss = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1].float(), ids[1:], reduction='none').cpu()
            want.append(loss if start == 0 else loss[-s:])
    assert torch.allclose(got, torch.cat(want), atol=1e-4)
    if stride: assert len(got) == (n - w)//s*s + w - 1

def test_losses_restore_training_mode_and_refuse_nothing_to_score(folder):
    model = q.load_model(folder).train()
    q.perplexity(model, None, IDS[:8])
    assert model.training
    with pytest.raises(ValueError, match='at least 2'): q.perplexity(model, None, IDS[:1])
    with pytest.raises(ValueError, match='stride'): q.perplexity(model, None, IDS, stride=-1)
