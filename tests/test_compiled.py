"Compiled layers: the same losses, gradients, logs and adapters, and what the measured rows say of the bars."
import copy, csv, functools
import pytest, torch
from peft import PeftModel, get_peft_model
from transformers import MistralConfig
from conftest import root
from ftcook import compiled, runs
from ftcook.compiled import compile_layers, fuse_lora, unpacked, wait_less
from ftcook.lora import lora_config
from ftcook.memory import measure_run
from ftcook.runs import Run, random_model, run_fields, step_trainer

small = MistralConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, sliding_window=None)
partition = 'aot_eager_decomp_partition'

@pytest.fixture(autouse=True)
def clean():
    yield
    torch._dynamo.reset()
    torch._functorch.config.activation_memory_budget = 1.

def adapted(quantize, r=4, seed=0):
    torch.manual_seed(seed)
    model = get_peft_model(random_model(small, quantize, 'float32'), lora_config(r=r))
    for name,p in model.named_parameters():
        if 'lora_B' in name: torch.nn.init.normal_(p, std=.1)
    return model

def step(model, ids):
    model.zero_grad()
    loss = model(ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name,p in model.named_parameters() if p.requires_grad}

@pytest.mark.parametrize('nested', [True, False])
def test_unpacked_in_plain_pytorch_is_what_bitsandbytes_says(nested):
    import bitsandbytes.functional as bnb
    weight = torch.randn(256, 192, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.quantize_4bit(weight, quant_type='nf4', compress_statistics=nested)
    more = [state.offset, state.state2.absmax, state.state2.code] if nested else []
    args = packed, [state.absmax, state.code, *more], [state.blocksize, 256], tuple(state.shape), weight.dtype
    theirs = bnb.dequantize_4bit(packed, state)
    for unpack in unpacked, compiled._compiled(), compiled._unpacked_by_bitsandbytes:
        assert torch.allclose(unpack(*args), theirs, atol=1e-6)

@pytest.mark.parametrize('quantize', ['none', 'nf4', 'nf4-double'])
@pytest.mark.parametrize('budget', [None, 1., .3])
def test_losses_and_gradients_are_those_of_peft(quantize, budget):
    model, ids = adapted(quantize), torch.randint(3, 500, (2, 32), generator=torch.Generator().manual_seed(1))
    loss, grads = step(model, ids)
    assert fuse_lora(model) == 14
    if budget: assert compile_layers(model, budget, backend=partition) == 2
    for _ in range(2): again, found = step(model, ids)
    assert abs(again - loss) < 1e-4 and found.keys() == grads.keys()
    for name in grads: assert (found[name] - grads[name]).norm() <= .01*grads[name].norm(), name

def test_what_cannot_be_fused_stays_as_it_is():
    model = get_peft_model(random_model(small, 'none', 'float32'), lora_config(r=4, lora_dropout=.1))
    assert fuse_lora(model) == 0
    model = adapted('none')
    ids = torch.randint(3, 500, (1, 16))
    with model.disable_adapter(): plain = model(ids).logits
    fuse_lora(model)
    with model.disable_adapter(): assert torch.equal(model(ids).logits, plain)
    merged = copy.deepcopy(model).merge_and_unload()
    assert torch.allclose(merged(ids).logits, model(ids).logits, atol=1e-4)

def trained(folder, compiled=None, lean=False, **change):
    torch._dynamo.reset(), torch.manual_seed(0)
    usual = dict(dtype='float32', per_device_train_batch_size=2, max_length=32, gradient_checkpointing='none')
    run = Run(small, **usual | change)
    trainer = step_trainer(run, folder, max_steps=3, learning_rate=1e-2, save_strategy='steps', save_steps=1)
    if compiled is not None: compile_layers(trainer.model, compiled, backend=partition)
    if lean: assert wait_less(trainer)
    trainer.train()
    return trainer

def logs(trainer): return [{k: h[k] for k in ('loss', 'entropy', 'mean_token_accuracy', 'num_tokens', 'grad_norm')}
    for h in trainer.state.log_history if 'loss' in h]

@pytest.mark.parametrize('change', [dict(), dict(gradient_accumulation_steps=2), dict(packing='bfd', lengths='exponential-10'),
    dict(lengths='exponential-10', method='lora'), dict(method='full')])
def test_a_trainer_that_waits_less_logs_the_same(tmp_path, change):
    for one,two in zip(*(logs(trained(tmp_path/str(lean), lean=lean, **change)) for lean in (False, True)), strict=True):
        assert one == pytest.approx(two, abs=1e-5)

def test_evaluation_in_between_logs_numbers(tmp_path):
    trainer = trained(tmp_path, lean=True)
    found = trainer.evaluate(eval_dataset=trainer.train_dataset)
    assert isinstance(found['eval_loss'], float)
    trainer.state.save_to_json(str(tmp_path/'state.json'))

@pytest.mark.parametrize('change', [dict(), dict(gradient_accumulation_steps=2), dict(gradient_checkpointing='full')])
def test_training_compiled_is_training(tmp_path, change):
    plain, ours = trained(tmp_path/'plain', **change), trained(tmp_path/'ours', .5, True, **change)
    for one,two in zip(logs(plain), logs(ours), strict=True): assert one == pytest.approx(two, abs=2e-3)
    assert ours.train(resume_from_checkpoint=str(tmp_path/'ours'/'checkpoint-2')).global_step == 3
    assert logs(ours)[-1]['loss'] == pytest.approx(logs(plain)[-1]['loss'], abs=2e-3)

def test_the_adapter_is_an_ordinary_one(tmp_path):
    trainer = trained(tmp_path, .5, True)
    trainer.save_model(tmp_path/'adapter')
    names = {n.replace('.default', '') for n,p in trainer.model.named_parameters() if p.requires_grad}
    from safetensors.torch import load_file
    assert set(load_file(tmp_path/'adapter'/'adapter_model.safetensors')) == names
    ids = torch.randint(3, 500, (1, 16))
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(random_model(small, 'nf4-double', 'float32'), tmp_path/'adapter').eval()
    assert torch.allclose(loaded(ids).logits, trainer.model.eval()(ids).logits, atol=1e-3)

def test_the_partitioner_is_told_what_a_product_costs():
    compiled.count_products()
    from torch.utils.flop_counter import FlopCounterMode
    x, w = torch.randn(8, 32), torch.randn(32, 16)
    low, high = torch.randn(8, 4), torch.randn(4, 16)
    with FlopCounterMode(display=False) as counter: torch.ops.ftcook.product(x, w, [], [0, 0], 32, low, high, 1., False)
    assert counter.get_total_flops() == 2*8*32*16

@pytest.mark.parametrize('change', [dict(method='full'), dict(method='dpo'), dict(packing='bfd', lengths='exponential-10')])
def test_a_run_that_says_so_is_compiled(change, monkeypatch):
    monkeypatch.setattr(runs, 'compile_layers', functools.partial(compile_layers, backend=partition))
    size = dict(dtype='float32', per_device_train_batch_size=2, max_length=32, gradient_checkpointing='none')
    row = measure_run(Run(small, compiled='layers', activation_memory_budget=.5, **size | change), steps=1, seconds=0)
    assert row['status'] == 'ok', row['note']
    assert torch._functorch.config.activation_memory_budget == 1

# What the measured rows say

path = root/'nbs'/'measurements'/'steps'/'compiled.csv'
rows = list(csv.DictReader(path.open(newline=''))) if path.exists() else []
def row(switches='', **change):
    wanted = tuple(str(v) for v in Run(**change).to_dict().values())
    return next((r for r in rows if r['switches'] == switches and tuple(r[k] for k in run_fields) == wanted), None)
keep_all = dict(gradient_checkpointing='none')
def layers(budget): return keep_all | dict(compiled='layers', activation_memory_budget=budget)

def test_losses_of_twenty_steps_are_those_of_trl():
    "To 1e-3 of the loss: that is what bfloat16 leaves of another order of additions."
    reference = [float(x) for x in row(**keep_all)['losses'].split()]
    compared = [r for r in rows if r['status'] == 'ok' and r['per_device_train_batch_size'] == '4' and r['lengths'] == 'fixed'
        and r['max_length'] == '2048' and r['method'] == 'qlora' and r['model'] == 'Mistral-7B']
    assert len(compared) > 5 and len(reference) == 20
    for r in compared:
        worst = max(abs(float(a) - b)/b for a,b in zip(r['losses'].split(), reference, strict=True))
        assert worst < 1e-3, (r['switches'], worst)

def test_every_row_says_how_busy_the_gpu_was():
    for r in rows:
        if r['status'] == 'ok': assert .3 < float(r['busy_s'])/float(r['step_s']) <= 1.02, r['switches']
