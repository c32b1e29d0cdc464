"""Scripts, data, answers: examined without being executed or unpickled, whatever they hold."""
import json, os, pickle, socket, sys, time
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from ftcook.doctor import (Finding, Rule, diagnose, diagnose_answers, diagnose_data, diagnose_history, diagnose_prompt,
    diagnose_script, parameters, read_script, renamed, script_checks)
_called = ('SFTTrainer', 'DPOTrainer', 'GRPOTrainer', 'RewardTrainer', 'KTOTrainer', 'Trainer', 'SFTConfig', 'DPOConfig',
           'GRPOConfig', 'TrainingArguments', 'LoraConfig', 'get_peft_model')

def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

# Signatures

def test_new_names_are_those_of_the_installed_classes():
    known = set().union(*(parameters(c) or () for c in _called)) | {'quantization_config'}
    assert {new for new,*_ in renamed.values()} <= known

def test_positional_and_star_arguments(tmp_path):
    source = """from trl import SFTTrainer as T
import trl
T(m, tokenizer=t)
trl.SFTTrainer(m, **unknown)
SFTTrainer(*a, **{"tokenizer": t, **b})
"""
    assert [f.where['line'] for f in diagnose(write(tmp_path/'a.py', source))] == [3, 5]

def test_notebook(tmp_path):
    code = ['%pip install trl\n', 'SFTTrainer(tokenizer=1)']
    cells = [dict(cell_type='markdown', source='# x ='), dict(cell_type='code', source=code)]
    assert diagnose(write(tmp_path/'a.ipynb', json.dumps(dict(cells=cells)))).first == 'unknown_argument'

def fixes(tmp_path, source): return [f.fix for f in diagnose_script(write(tmp_path/'a.py', source))]

def test_what_to_write_instead(tmp_path):
    assert fixes(tmp_path, 'SFTTrainer(tokenizer=t)') == ['processing_class=…']
    assert fixes(tmp_path, 'SFTTrainer(max_seq_length=5)') == ['args=SFTConfig(max_length=…)']
    assert fixes(tmp_path, 'SFTTrainer(learning_rate=1e-4)') == ['args=SFTConfig(learning_rate=…)']
    assert fixes(tmp_path, 'DPOTrainer(max_seq_length=5)') == ['args=DPOConfig(max_length=…)']
    assert fixes(tmp_path, 'SFTConfig(learning_rte=1e-4)') == ['did you mean learning_rate?']
    assert fixes(tmp_path, 'SFTConfig(zzz=1)') == ['leave it out']

# What a script says

def codes(tmp_path, source): return diagnose_script(write(tmp_path/'a.py', source)).codes

def test_an_attribute_that_is_assigned():
    script = read_script('tok.pad_token = tok.eos_token\ntok.padding_side = "left"\nx = 1\n')
    assert [n.lineno for n in script.assigned('pad_token', 'padding_side')] == [1, 2] and script.assigned('x') == []

def test_where_a_name_comes_from():
    script = read_script('from transformers.data import DataCollator\nfrom trl import SFTTrainer\nfrom . import here\n')
    assert script.imports('DataCollator', of='transformers') and not script.imports('DataCollator', of='trl')
    assert script.imports('SFTTrainer', of='trl') and not script.imports('here', of='trl')

@pytest.mark.parametrize('source,wanted', [
    ('tok.padding_side = "right"\nm.generate(x)', ['padding_side']),
    ('tok = T.from_pretrained("x", padding_side="right")\nm.generate(x)', ['padding_side']),
    ('tok.padding_side = "right"\nm.generate(x)\ntok.padding_side = "left"', []),
    ('tok.padding_side = "right"\nm.generate(x)\nTrainer(m)', []),
    ('tok.add_special_tokens({"pad_token": "<p>"}); m.resize_token_embeddings(9); LoraConfig(r=8)', []),
    ('tok.add_special_tokens({"bos_token": "<p>"}); m.resize_token_embeddings(9); LoraConfig(r=8)', ['added_untrained']),
    ('m = get_peft_model(m, c)\nSFTTrainer(m, peft_config=c)', ['double_adapter']),
    ('SFTTrainer(get_peft_model(m, c), peft_config=c)', ['double_adapter']),
    ('n = get_peft_model(m, c)\nSFTTrainer(m, peft_config=c)', []),
    ('rate = 1e-6\nSFTConfig(learning_rate=rate); LoraConfig(r=8)', ['lr_too_low']),
    ('SFTConfig(learning_rate=.5); LoraConfig(r=8)', ['lr_too_high']),
    ('SFTConfig(learning_rate=1e-6)', []), ('SFTConfig(learning_rate=1e-8)', ['lr_too_low']),
    ('SFTConfig(learning_rate=1e-2)', ['lr_too_high']),
    ('DPOConfig(learning_rate=1e-8)', [])], ids=lambda o: str(o)[:50])
def test_combinations(tmp_path, source, wanted): assert codes(tmp_path, source) == wanted

def test_a_check_of_ones_own(tmp_path):
    rule = Rule('no_seed', 'no seed', 'forgotten', 'seed=0')
    def check_seed(script):
        if not any('seed' in c[2] for c in script.calls): yield Finding(rule, 'certain', 'no seed=')
    path = write(tmp_path/'a.py', 'SFTConfig()')
    assert diagnose(path, checks=(*script_checks, check_seed)).codes == ['no_seed'] and diagnose(path).codes == []

def cut(path): return [f.evidence for f in diagnose(path) if f.code == 'cut_off']

def test_what_was_not_looked_at_is_said(tmp_path):
    assert cut(write(tmp_path/'a.py', 'SFTConfig(bad=1)\n'*60)) == ['the first 50 findings of the check arguments are listed']
    assert len(diagnose(tmp_path/'a.py')) == 51
    assert cut(write(tmp_path/'a.py', 'f()\n'*2001)) == ['the first 2,000 calls were looked at, up to line 2000']
    many = ', '.join(f'a{i}=1' for i in range(201))
    assert cut(write(tmp_path/'a.py', f'f({many})')) == ['line 1: the first 200 arguments of the call were looked at']
    assert cut(write(tmp_path/'a.py', f'f({many.partition(", ")[2]})\n' + 'f()\n'*1999)) == []

def test_data_sets_share_the_limits(tmp_path, monkeypatch):
    from ftcook.limits import Limits
    rows = [json.dumps(talk(f'Question {i}?', f'Answer {i}')) + '\n' for i in range(10)]
    def looked_at(n, **limits):
        monkeypatch.setattr('ftcook.doctor.inputs.limits', lambda: Limits(**limits))
        files = [write(tmp_path/f'{i}.jsonl', ''.join(rows[5*i:5*i+5])) for i in range(n)]
        return [f.evidence for f in diagnose(*files) if f.code == 'cut_off']
    assert looked_at(2) == looked_at(1, rows=5) == looked_at(1, data=5*len(rows[0])) == []
    assert looked_at(1, rows=4) == [f'the lines before 5 were looked at, {4*len(rows[0])} of {5*len(rows[0])} bytes']
    assert len(looked_at(2, rows=8)) == 2 and len(looked_at(1, data=4*len(rows[0]))) == 1 and len(looked_at(1, memory=999)) == 1

# Data

def talk(question, answer, system=None):
    turns = [dict(role='system', content=system)]*bool(system)
    return dict(messages=[*turns, dict(role='user', content=question), dict(role='assistant', content=answer)])

def test_a_system_text_is_no_part_of_the_question():
    train, test = [talk('Where to?', 'Rome', 'Be brief.')], [talk('where  to?', 'Oslo', 'Be kind.')]
    assert diagnose_data(train, test).codes == ['leak']

def test_addresses_that_belong_to_nobody_are_no_secrets():
    def codes(address): return diagnose_data([talk('Hi', f'Write to {address}')]).codes
    assert codes('anna@example.com') == [] and codes('anna@mail.example') == [] and codes('anna@mail-service.se') == ['secrets']

@pytest.mark.parametrize('text,kind', [('IBAN DE89 3704 0044 0532 0130 00', 'iban'), ('card 4929 1234 5678 9015', 'card'),
    ('password: hunter2hunter2', 'assigned'), ('AKIAABCDEFGHIJKLMNOP', 'aws')])
def test_kinds_of_secrets(text, kind): assert f'1 × {kind}' in diagnose_data([talk('Hi', text)])[0].evidence

marks = '<|im_start|> [INST] [/INST] <|start_header_id|> <|eot_id|> <start_of_turn> <|assistant|>'.split() + ['### Response:']
@pytest.mark.parametrize('mark', marks)
def test_marks_of_each_template(mark):
    found = diagnose_data([talk('Hi', f'{mark} hello')])
    assert found.codes == ['baked_template'] and found[0].evidence.endswith(f'marks such as {mark!r}')
    assert diagnose_data([talk('Hi', 'hello')]).codes == []

# Answers and prompts

def test_answers_without_a_limit_say_nothing_about_it(): assert diagnose_answers(['w1 w2 w3']*9).codes == []

def test_the_first_row_that_shows_it(): assert diagnose_answers(['fine', 'x\nuser\ny', 'x\nuser\ny'])[0].where == dict(row=1)

def test_prompts_are_compared_token_by_token():
    import ftcook.doctor.toy as toy
    tokenizer, asked = toy.toy_tokenizer(), [dict(role='user', content='w1 w2')]
    def why(served): return [f.evidence for f in diagnose_prompt(tokenizer, asked, served)]
    assert why('<user> w1 w2 <assistant>') == why([2, 6, 7, 3]) == []
    assert why([2, 6, 7]) == ['token 3 of 4: the generation prompt is missing']
    assert why([2, 6, 8, 3])[0].startswith('token 2 of 4: training has')

# Nothing is executed, unpickled or fetched

class Bomb:
    def __reduce__(self): return open, (os.environ['FTCOOK_BOMB'], 'w')

def test_nothing_is_executed(tmp_path, monkeypatch):
    fuse = tmp_path/'exploded'
    monkeypatch.setenv('FTCOOK_BOMB', str(fuse))
    monkeypatch.setattr(socket, 'socket', lambda *a, **k: pytest.fail('network'))
    for name in ('adapter_model.bin', 'training_args.bin', 'optimizer.pt'): write(tmp_path/'run'/name, pickle.dumps(Bomb()))
    script = write(tmp_path/'train.py', f'open({str(fuse)!r}, "w")\n')
    assert 'pickled' in diagnose(tmp_path/'run').codes and diagnose(script) == []
    diagnose()
    assert not fuse.exists()
    pickle.loads((tmp_path/'run'/'optimizer.pt').read_bytes()).close()  # the bomb is a real one
    assert fuse.exists()

# Strange files

deep = '['*200_000
keys = """log_history step loss grad_norm learning_rate eval_loss rewards/margins logps/chosen messages prompt chosen role content
model vocab added_tokens id r cells source cell_type chat_template eos_token""".split()
logged = 'step loss grad_norm learning_rate eval_loss rewards/chosen rewards/margins logps/chosen'.split()
files = """trainer_state.json adapter_config.json config.json tokenizer.json tokenizer_config.json adapter_model.safetensors 
optimizer.pt chat_template.jinja""".split()
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
def grown(inner): return st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(keys), inner, max_size=5)
json_values = st.recursive(plain, grown, max_leaves=25)
contents = json_values.map(lambda o: json.dumps(o).encode())
numbers = st.integers(-5, 60) | st.floats() | st.none() | st.text(max_size=3)
anything = st.binary(max_size=300) | st.text(max_size=200).map(str.encode)
entries = st.lists(st.dictionaries(st.sampled_from(logged), numbers, max_size=6), max_size=40)
ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
quick = settings(max_examples=60, deadline=None, suppress_health_check=ignored)

def sound(found): assert 'check_failed' not in found.codes, str(found)

@quick
@given(st.sampled_from(files), st.binary(max_size=200) | contents)
def test_any_run_folder(tmp_path, name, content):
    for p in tmp_path.iterdir(): p.unlink()
    write(tmp_path/name, content)
    sound(diagnose(tmp_path))

@quick
@given(entries)
def test_any_history(history): sound(diagnose_history(history))

@quick
@given(st.sampled_from(['.py', '.ipynb', '.jsonl', '.log']), anything | contents)
def test_any_file(tmp_path, suffix, content): sound(diagnose(write(tmp_path/f'file{suffix}', content)))

@quick
@given(st.lists(json_values, max_size=5))
def test_any_rows(tmp_path, rows):
    sound(diagnose(write(tmp_path/'rows.jsonl', '\n'.join(json.dumps(r) for r in rows))))

@quick
@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_answers(texts): sound(diagnose_answers(texts))

hostile = [('a.py', deep), ('a.py', 'x = ' + '-'*100_000 + '1'), ('a.py', 'x\0y'), ('a.py', b'\xff\xfe\x00'), ('a.py', '('*5000),
    ('a.ipynb', deep), ('a.ipynb', '[]'), ('a.jsonl', deep), ('a.jsonl', '{"a":'*50_000), ('a.jsonl', '\0'*1000), ('a.jsonl', ''),
    ('a.log', deep)]
@pytest.mark.parametrize('name,content', hostile, ids=lambda o: str(o[:12]))
def test_hostile_files(tmp_path, name, content):
    start = time.perf_counter()
    sound(diagnose(write(tmp_path/name, content)))
    assert time.perf_counter() - start < 10

strange = '{"log_history": [{"step": 1e400}, 7, {"step": 1, "loss": "NaN"}]}'
states = [deep, '{"log_history": ' + deep, '\0', '{', 'NaN', '[1]', strange, b'\xff\xff']
@pytest.mark.parametrize('name', ['trainer_state.json', 'adapter_config.json', 'tokenizer.json'])
@pytest.mark.parametrize('content', states, ids=lambda o: str(o[:12]))
def test_hostile_run_files(tmp_path, name, content):
    write(tmp_path/name, content)
    sound(diagnose(tmp_path))

def test_huge_files(tmp_path):
    for name in ('a.py', 'a.jsonl', 'a.log', 'run/trainer_state.json', 'run/adapter_model.safetensors'):
        with write(tmp_path/name, '').open('wb') as f: f.truncate(2**33)  # sparse: takes no space
    start = time.perf_counter()
    for name in ('a.py', 'a.log', 'run'): sound(diagnose(tmp_path/name))
    assert time.perf_counter() - start < 5
    with (tmp_path/'a.jsonl').open('r+b') as f: f.truncate(2**26)
    sound(diagnose(tmp_path/'a.jsonl'))

@pytest.mark.skipif(sys.platform == 'win32', reason='needs symbolic links and pipes')
def test_loops_and_pipes(tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    (run/'checkpoint-1').symlink_to(run)
    (run/'trainer_state.json').symlink_to(run/'trainer_state.json')
    for path in (run/'adapter_config.json', run/'adapter_model.safetensors', tmp_path/'pipe.jsonl'): os.mkfifo(path)
    sound(diagnose(run))
    with pytest.raises(ValueError, match='neither a file nor a folder'): diagnose(tmp_path/'pipe.jsonl')

def test_empty_folder(tmp_path): assert diagnose(tmp_path).first == 'not_a_run'
