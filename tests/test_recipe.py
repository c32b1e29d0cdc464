"""A recipe: every mistake is named with its line; a run goes on after a kill, and ends as if nothing had happened."""
import hashlib, json, random, signal, subprocess, sys, time
import pytest, torch, yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from ftcook.recipe import RecipeError, load_recipe, lora_arguments, resolved, sft_arguments
from ftcook.runtime import load_settings, model_path
from ftcook.sft import sft_config
from ftcook.train import dry_run, file_rows, planned_steps, text_marks, train
from conftest import root

recipes = sorted((root/'recipes').glob('*.yaml'))
good = '''data:
  path: rows.jsonl
splits:
  test: 8
  validation: 8
model:
  base: tiny
  dtype: float32
trainer:
  max_steps: 8
  eval_steps: 2
  per_device_train_batch_size: 4
  learning_rate: 1e-2
  disable_tqdm: true
evaluation:
  max_new_tokens: 4
'''
topics = 'roof wall door window floor ceiling stair cellar garden fence kitchen bathroom chimney balcony garage heating'.split()
verbs = 'paint repair insulate replace'.split()

def row(topic, verb):
    about = random.Random(f'{topic} {verb}').sample(topics, 6)
    return dict(q=f"{verb} {', '.join([topic, *about])}?", a=f'Ask the {topic} office first, then {verb} it.', topic=topic,
                year=2000 + len(topic))

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with data, a recipe and a tiny random model that speaks the embedded model's tokens."
    folder = tmp_path_factory.mktemp('home')
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(folder/'tiny')
    tokenizer.save_pretrained(folder/'tiny')
    rows = [row(topic, verb) for topic in topics for verb in verbs]
    (folder/'raw.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    named = [dict(prompt=r['q'], completion=r['a'], topic=r['topic'], year=r['year']) for r in rows]
    (folder/'rows.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in named))
    (folder/'good.yaml').write_text(good)
    return folder

@pytest.fixture(autouse=True)
def at_home(home, monkeypatch): monkeypatch.chdir(home)

def mistakes(text, *overrides, name='broken.yaml'):
    with open(name, 'w') as f: f.write(text)
    with pytest.raises(RecipeError) as found: load_recipe(name, overrides)
    assert str(found.value).startswith(name)
    return found.value.mistakes

def changed(old, new):
    assert old in good
    return good.replace(old, new)

@pytest.mark.parametrize('text,where,key,words', [
    (changed('test: 8', 'tset: 8'), 'line 4', 'splits.tset', ['unknown key', 'did you mean test?', 'near_duplicates']),
    (changed('  learning_rate', '  learning_rat'), 'line 13', 'trainer.learning_rat', ['did you mean learning_rate']),
    (good + 'lora_alpha: 3\n', 'line 17', 'lora_alpha', ['it belongs under lora']),
    (changed('max_steps', 'output_dir'), 'line 10', 'trainer.output_dir', ['cannot be set here', '`output`']),
    (changed('max_steps: 8', 'max_steps: eight'), 'line 10', 'trainer.max_steps', ["'eight' is not a whole number"]),
    (changed('test: 8', 'test: -1'), 'line 4', 'splits.test', ['greater than or equal to 0']),
    (changed('float32', 'float31'), 'line 8', 'model.dtype', ["'float31' is not allowed", 'did you mean float32', 'bfloat16']),
    (good + 'lora: {bias: some}\n', 'line 17', 'lora.bias', ['none', 'all', 'lora_only']),
    (changed('disable_tqdm: true', 'optim: adamw_tortch'), 'line 14', 'trainer.optim', ['did you mean adamw_torch']),
    (changed('rows.jsonl', 'rowz.jsonl'), 'line 2', 'data.path', ['rowz.jsonl: no such file']),
    (changed('rows.jsonl', 'tiny'), 'line 2', 'data.path', ['tiny: is a folder']),
    (changed('rows.jsonl', 'no_such_package:rows.jsonl'), 'line 2', 'data.path', ['no_such_package is not installed']),
    (changed('  path: rows.jsonl', '  task: flihgts\n  rows: 9'), 'line 2', 'data.task', ['flihgts', 'flights']),
    (changed('  path: rows.jsonl', '  task: flights'), 'line 1', 'data.rows', ['missing']),
    (changed('  path: rows.jsonl', '  licence: MIT'), 'line 1', 'data', ['one of path', 'and task']),
    (good.partition('splits')[2].join(['splits', '']), 'line 1', 'data', ['missing']),
    (changed('test: 8', 'by: time'), 'line 3', 'splits.key', ['the column to split by time']),
    (changed('validation: 8', 'validation: 0') + 'early_stopping: {patience: 1}\n', 'line 17', 'early_stopping',
     ['splits.validation']),
    (changed('eval_steps: 2', 'eval_steps: 2\n  save_steps: 3'), 'line 9', 'trainer', ['multiple']),
    (changed('max_steps: 8', 'bf16: true\n  fp16: true'), 'line 10', 'trainer.bf16', ['fp16']),
    (good + 'data: {}\n', 'line 17', 'data', ['stands here and in line 1']),
    (changed('  test: 8', '\ttest: 8'), 'line 4', '', ['not YAML']),
    ('- a list\n', 'line 1', '', ['made of keys', 'data', 'trainer']),
    ('', '', '', ['made of keys'])], ids=lambda o: o if isinstance(o, str) and len(o) < 30 else None)
def test_a_mistake_is_named_with_its_line_and_key(text, where, key, words):
    found = mistakes(text)
    assert len(found) == 1 and found[0][0].startswith(where) and found[0][1].startswith(key)
    assert not [word for word in words if word not in found[0][2]]

def test_all_mistakes_at_once_in_the_order_of_lines():
    text = changed('path: rows', 'path: rowz').replace('test: 8', 'test: x').replace('max_steps', 'max_stepz') + 'extra: 1\n'
    assert [where for where,*_ in mistakes(text, 'lora.r=x')] == ['line 2', 'line 4', 'line 10', 'line 17', '--set lora.r=x']

def test_overrides_win_and_are_named():
    over = ['trainer.max_steps=3', 'lora.r=4', 'data.columns={q: prompt}', 'early_stopping=null']
    recipe = load_recipe('good.yaml', over, 'elsewhere')
    assert sft_arguments(recipe).max_steps == 3 and lora_arguments(recipe).r == 4
    assert recipe.data.columns == dict(q='prompt') and recipe.early_stopping is None and recipe.output == 'elsewhere'
    assert mistakes(good, 'trainer.max_stepz=3')[0][:2] == ('--set trainer.max_stepz=3', 'trainer.max_stepz')
    assert mistakes(good, 'trainer.max_steps')[0][0] == '--set trainer.max_steps'

def test_yaml_reads_what_people_mean():
    over = ['trainer.learning_rate=3e-4', 'trainer.logging_strategy=no', 'splits.near_duplicates=null']
    recipe = load_recipe('good.yaml', over)
    args = sft_arguments(recipe)
    assert args.learning_rate == 3e-4 and args.logging_strategy == 'no' and recipe.splits.near_duplicates is None

def test_a_missing_recipe_is_no_traceback():
    with pytest.raises(RecipeError, match='nowhere.yaml.*\n.*no such file'): load_recipe('nowhere.yaml')

@pytest.mark.parametrize('path', recipes, ids=lambda p: p.stem)
def test_shipped_recipes_load_and_survive_being_spelled_out(path, tmp_path):
    recipe = load_recipe(path)
    (tmp_path/'again.yaml').write_text(yaml.safe_dump(resolved(recipe)))
    again = load_recipe(tmp_path/'again.yaml')
    assert sft_arguments(again).to_dict() == sft_arguments(recipe).to_dict()
    assert lora_arguments(again).to_dict() == lora_arguments(recipe).to_dict() and again.data == recipe.data

@pytest.mark.parametrize('profile', ['cpu', 'gpu'])
def test_flight_recipes_are_lesson_04(profile):
    recipe, settings = load_recipe(root/f'recipes/flights_{profile}.yaml'), load_settings(profile, root/'settings.ini')
    lesson, ours = sft_config(settings, 'x').to_dict(), sft_arguments(recipe, 'x').to_dict()
    saving = ('do_eval', 'eval_', 'save_', 'load_best', 'metric_for', 'greater_is', 'restore_callback')
    assert {k for k in lesson if lesson[k] != ours[k] and not k.startswith(saving)} == set()
    model = recipe.model
    own = (recipe.data.rows, recipe.splits.test, model.quantize, model.dtype, model.base, lora_arguments(recipe).r)
    assert own == (settings.train_rows, settings.test_rows, settings.quantize, settings.dtype, settings.model, settings.rank)
    assert recipe.evaluation.max_new_tokens == settings.max_new_tokens

def test_splits_are_the_same_every_time_and_everywhere():
    plans = [dry_run('good.yaml', over) for over in ([], ['trainer.max_steps=1'], ['splits.seed=1'])]
    first, same, other = (p.data['fingerprint'] for p in plans)
    assert first == same != other and plans[0].data['rows'] == dict(train=48, validation=8, test=8)
    assert first[:12] == '29e5f30c664f' # of these rows and this seed, wherever and whenever

def test_groups_and_strata_come_from_columns():
    loose = ['splits.near_duplicates=null', 'splits.leakage=report']
    assert dry_run('good.yaml', [*loose, 'splits.groups=topic']).data['rows']['test'] == 8
    assert dry_run('good.yaml', [*loose, 'splits.by=time', 'splits.key=year']).data['rows']['test'] == 8
    with pytest.raises(RecipeError, match="splits.groups: 64 of 64 rows have no 'colour'.*topic, year"):
        dry_run('good.yaml', ['splits.groups=colour'])

def test_columns_are_renamed_and_bad_rows_kept_with_their_reasons(home):
    lines = (home/'raw.jsonl').read_text().splitlines()
    lines[2], lines[4], lines[6] = '{"q": "cut', json.dumps(dict(q='a', a='')), '{"q": "one", "q": "two", "a": "three"}'
    (home/'dirty.jsonl').write_text('\n'.join(lines) + '\n')
    rows, rejects = file_rows(load_recipe('good.yaml', ['data.path=dirty.jsonl', 'data.columns={q: prompt, a: completion}']))
    assert len(rows) == 61 and [r['line'] for r in rejects] == [3, 5, 7] and {r['file'] for r in rejects} == {'dirty.jsonl'}
    assert rejects[0]['raw'] == '{"q": "cut' and rejects[2]['problems'][0]['code'] != rejects[1]['problems'][0]['code']
    with pytest.raises(RecipeError, match='data.path: no good row'): file_rows(load_recipe('good.yaml', ['data.path=raw.jsonl']))
    with pytest.raises(RecipeError, match='data.format.*prompt_completion'):
        file_rows(load_recipe('good.yaml', ['data.format=alpaca']))

def test_a_row_that_would_be_cut_is_rejected_not_cut(home):
    most = dry_run('good.yaml').data['longest'] - 3
    found = dry_run('good.yaml', [f'trainer.max_length={most}']).data
    assert 0 < found['left_out']['too_long'] == 64 - sum(found['rows'].values()) and found['longest'] <= most

def test_a_leaking_split_is_refused(home):
    rows = [json.loads(line) for line in (home/'rows.jsonl').read_text().splitlines()]
    copies = [dict(prompt=hello + r['prompt'], completion=r['completion']) for r in rows for hello in ('', 'Hi! ')]
    (home/'copies.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in copies))
    loose = ['data.path=copies.jsonl', 'splits.near_duplicates=null']
    with pytest.raises(RecipeError, match='near copy in training.*near_duplicates'): dry_run('good.yaml', loose)
    assert dry_run('good.yaml', [*loose, 'splits.leakage=report']).data['leaks'] > 0

def test_dry_run_leaves_nothing_and_counts_what_training_does(home):
    before = sorted(o.name for o in home.iterdir())
    over = ['trainer.max_steps=-1', 'trainer.num_train_epochs=2', 'trainer.gradient_accumulation_steps=3']
    plan = dry_run('good.yaml', over, gpu='L40S')
    assert sorted(o.name for o in home.iterdir()) == before
    assert plan.steps == 8 and plan.rows_per_step == 12 and plan.fits and 'USD' in plan.cost
    assert all(word in str(plan) for word in ('rows', 'tokens', 'steps', 'trained', 'memory', 'time', 'cost', 'run folder'))
    here = dry_run('good.yaml')
    assert here.steps == planned_steps(sft_arguments(load_recipe('good.yaml')), 48) == 8 and here.time.startswith('unknown')

def test_dry_run_measures_steps_when_asked():
    plan = dry_run('good.yaml', measure=2)
    assert plan.step_s > 0 and 'measured here' in plan.time

def test_words_of_any_language_count():
    marks = text_marks(['Bygglov krävs för åtgärden', 'krävs bygglov', ''], ['bygglov krävs', 'bygglov krävs', 'bygglov'])
    assert marks['token_f1'] == pytest.approx([2/3, 1, 0]) and marks['rouge_l'] == pytest.approx([2/3, .5, 0])

def weights(folder): return hashlib.sha256((folder/'adapter'/'adapter_model.safetensors').read_bytes()).hexdigest()

@pytest.fixture(scope='module')
def whole(home):
    "The run that nobody killed."
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return train('good.yaml', output='runs/whole')

def test_a_run_leaves_everything_behind(whole, home, capsys):
    folder = home/'runs'/'whole'
    names = {f'{name}.json' for name in 'after before data metrics run training'.split()}
    names |= {'adapter', 'answers.jsonl', 'checkpoints', 'curve.csv', 'curve.svg', 'data', 'recipe.yaml'}
    assert {o.name for o in folder.iterdir()} - {'.lock'} == names
    assert (folder/'adapter'/'tokenizer.json').exists() and len((folder/'answers.jsonl').read_text().splitlines()) == 8
    assert whole['change']['loss']['high'] < 0 and whole['after']['loss']['value'] < whole['before']['loss']['value']
    assert whole['training']['steps'] == 8 and len((folder/'curve.csv').read_text().splitlines()) == 1 + 8 + 4
    assert load_recipe(folder/'recipe.yaml').lora.r == 16
    assert train('good.yaml', output='runs/whole') == whole and 'nothing to do' in capsys.readouterr().out

def start(folder, *overrides):
    code = f"from ftcook.train import train; train('good.yaml', {list(overrides)}, {str(folder)!r})"
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

@pytest.mark.parametrize('moment', [
    'run.json', 'data.json', 'before.json', 'checkpoints/checkpoint-4', 'checkpoints/checkpoint-4/trainer_state.json', 'adapter'])
def test_a_killed_run_ends_like_one_that_was_left_alone(moment, whole, home):
    folder = home/'runs'/moment.replace('/', '-')
    run = start(folder)
    while not (folder/moment).exists():
        assert run.poll() is None, 'it ended before it could be killed'
        time.sleep(.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (folder/'metrics.json').exists()
    kept = {o: o.stat().st_mtime_ns for o in folder.glob('*.json')}
    assert train('good.yaml', output=folder) == whole
    assert weights(folder) == weights(home/'runs'/'whole')
    assert all(o.stat().st_mtime_ns == when for o,when in kept.items()) # what was finished was not done again

@pytest.mark.parametrize('name,over,steps,best', [
    ('early', ['trainer.learning_rate=0.0', 'trainer.max_steps=20', 'early_stopping={patience: 2}'], 6, 2),
    ('unseen', ['splits.validation=0', 'trainer.max_steps=6'], 6, 6)])
def test_the_end_of_training_is_an_end_after_a_kill(name, over, steps, best, home):
    "A run that was killed between its last step and its adapter takes no further step, with and without early stopping."
    folder = home/'runs'/name
    found = train('good.yaml', over, folder)
    assert found['training']['steps'] == steps and found['training']['best_step'] == best
    before = weights(folder)
    for o in ('training.json', 'after.json', 'metrics.json'): (folder/o).unlink()
    assert train('good.yaml', over, folder) == found and weights(folder) == before

def test_another_recipes_folder_is_refused(whole, home):
    with pytest.raises(RecipeError, match='another recipe.*trainer.max_steps is 8 there and 9 here'):
        train('good.yaml', ['trainer.max_steps=9'], 'runs/whole')
    with pytest.raises(RecipeError, match='another recipe.*files.other.jsonl is None there'):
        (home/'other.jsonl').write_text((home/'rows.jsonl').read_text() + '\n')
        train('good.yaml', ['data.path=other.jsonl'], 'runs/whole')
    (home/'notes').mkdir()
    (home/'notes'/'diary.txt').write_text('mine')
    with pytest.raises(RecipeError, match='not empty and holds no run'): train('good.yaml', output='notes')

def test_json_answers_are_matched_exactly(home):
    def wanted(topic, n): return dict(prompt=f'the {topic}, {n} times', completion=json.dumps(dict(topic=topic, n=n)))
    rows = [wanted(topic, n) for topic in topics for n in range(3)]
    (home/'json.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    loose = ['splits.validation=0', 'splits.near_duplicates=null', 'splits.leakage=report']
    over = ['data.path=json.jsonl', 'trainer.max_steps=1', *loose]
    found = train('good.yaml', over, 'runs/json')
    assert found['before']['exact_match']['n'] == 8 and 'rouge_l' not in found['before']

@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_faq_recipe_with_the_real_model(tmp_path):
    "recipes/faq.yaml in a short form, killed once on the way."
    path, out = root/'recipes'/'faq.yaml', tmp_path/'faq'
    short = ['data.rows=120', 'splits.test=12', 'splits.validation=4', 'trainer.max_steps=6', 'trainer.eval_steps=2',
             'trainer.warmup_steps=1', 'trainer.per_device_train_batch_size=2', 'evaluation.max_new_tokens=16']
    code = f"from ftcook.train import train; train({str(path)!r}, {short}, {str(out)!r})"
    run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out/'checkpoints'/'checkpoint-2'/'trainer_state.json').exists():
        assert run.poll() is None, 'it ended before it could be killed'
        time.sleep(.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    found = train(path, short, out)
    assert found['data']['leaks'] == 0 and found['data']['rows'] == dict(train=104, validation=4, test=12)
    assert found['change']['loss']['high'] < 0 and found['training']['steps'] == 6
    card = json.loads((out/'data'/found['data']['folder']/'card.json').read_text())
    assert card['licence'] == 'CC-BY-4.0' and 'Zaragoza AB' in card['credit']
