"What `check` calls good, the trainer loads; what it does not, it names, and `--fix` mends it or keeps it apart."
import gzip, json, math, os, subprocess, sys, tempfile
from pathlib import Path
import datasets, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from ftcook.cli import main
from ftcook.data import DataError, check_file, dedupe, load_splits, read_card, split, to_messages, write_splits

datasets.disable_progress_bars()
datasets.logging.set_verbosity(50)
user, assistant = dict(role='user', content='Hi'), dict(role='assistant', content='Hello')
def row(**columns): return dict(messages=[user, assistant], **columns)
def called(**arguments):
    call = dict(role='assistant', content=None, tool_calls=[dict(type='function', function=dict(name='f', arguments=arguments))])
    return dict(messages=[user, call])
def named(name): return dict(messages=[dict(user, name=name), assistant])

def write(path, rows):
    path.write_bytes(b''.join(r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() + b'\n' for r in rows))
    return path

def rows_of(path):
    with open(path, encoding='utf-8', newline='\n') as f: return [json.loads(line.removeprefix('\ufeff')) for line in f]

def alike(a, b):
    "Equal but for a float's last digits: datasets' JSON columns keep about ten of them."
    if isinstance(a, float) and isinstance(b, (int, float)): return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-300)
    if isinstance(a, list): return isinstance(b, list) and len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict): return isinstance(b, dict) and a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    return a == b

def load_everywhere(path, folder):
    "Each way a trainer loads a file; an error if one of them fails, or changes a row."
    rows = rows_of(path)
    loaded = datasets.load_dataset('json', data_files=str(path), split='train', cache_dir=str(folder/'cache'))
    assert len(list(loaded)) == len(rows) and list(datasets.Dataset.from_list(rows))
    whole = [r | dict(place=i) for i,r in enumerate(rows)] + [row(place=-1), row(place=-2)]
    made = split(whole, test=1)
    again = load_splits(write_splits(made, folder, 'loaded', 'here', 'CC0-1.0'))
    for parts in (made, again):
        back = {r['place']: r for part in parts.values() for r in part}
        for i,r in enumerate(rows): assert alike({k: v for k,v in back[i].items() if v is not None or k in r}, r | dict(place=i))

mixed = {
    'number, text': [row(id=1), row(id='b')], 'text, object': [row(m='b'), row(m=dict(a=1))], 'mixed list': [row(tags=[1, 'a'])],
    'text, list': [row(m='b'), row(m=['b'])], 'bool, number': [row(n=True), row(n=1)],
    'long, float': [row(n=2**53 + 1), row(n=.5)],
    '2^63': [row(n=2**63)], '2^64': [row(), row(n=2**64)], '-2^63-1': [row(n=-2**63 - 1)],
    '10^30 inside': [row(m=dict(a=[10**30]))],
    'big, text': [row(n=2**64), row(n='b'), row(n=1)], 'arguments': [called(a=1), called(a='x'), called(b=[1])],
    'names': [named('n'), named(3)],
    'deep arguments': [called(a=dict(b=1)), called(a=dict(b=dict(c=2)))],
    'call ids': [row(), dict(messages=[user, dict(role='assistant',
        tool_calls=[dict(id=1, function=dict(name='f')), dict(id='b', function=dict(name='f', arguments='{}'))])])],
    'arguments as text and object': [called(a=1), dict(messages=[user, dict(role='assistant',
    tool_calls=[dict(function=dict(name='f', arguments='{}'))])])],
    'tools': [row(tools=[dict(name='f', parameters=dict(default=1))]), row(tools=[dict(name='g', parameters=dict(default='x'))])],
    'prompt as text and turns': [dict(prompt='Hi', completion='Hello'), dict(prompt=[user], completion=[assistant])],
    'pairs as text and turns': [dict(prompt='Hi', chosen='a', rejected='b'),
    dict(prompt=[user], chosen=[assistant], rejected=[dict(assistant, content='b')])]}

@pytest.mark.parametrize('name', mixed)
def test_mixed_types_are_found_and_mended(tmp_path, name):
    data, clean = write(tmp_path/'data.jsonl', mixed[name]), tmp_path/'clean.jsonl'
    report = check_file(data, fix=clean)
    assert set(report.counts) <= {'mixed_types', 'big_integer'} and report.counts and report.kept == len(mixed[name])
    assert all(p.line and p.remedy for found in report.examples.values() for p in found)
    assert check_file(clean).exit_code == 0
    load_everywhere(clean, tmp_path)
    def plain(o): # JSON text reads back as what was there
        if isinstance(o, str):
            try: return json.loads(o)
            except ValueError: return o
        return [plain(x) for x in o] if isinstance(o, list) else {k: plain(v) for k,v in o.items()} if isinstance(o, dict) else o
    assert [plain(r) for r in rows_of(clean)] == [plain(to_messages(r)) for r in mixed[name]]

def test_the_message_names_field_and_lines(tmp_path):
    report = check_file(write(tmp_path/'data.jsonl', [row(id=1), row(), called(a=1), called(a='x'), row(id='b'), row(n=2**70)]))
    said = {p.line: p.message for found in report.examples.values() for p in found}
    assert said == {4: 'messages[].tool_calls[].function.arguments.a is text, and a number on line 3',
                    5: 'id is text, and a number on line 1', 6: 'n is an integer beyond 64 bits'}

good = {
    'other arguments': [called(a=1), called(b='x'), row()], 'other keys': [row(m=dict(a=1)), row(m=dict(b=[1])), row(m={})],
    'nothing': [row(n=None), row(n=[])],
    'int, float': [row(n=1), row(n=1.5)], 'largest': [row(n=2**63 - 1), row(n=-2**63)],
    'a later column': [row(), row(note='b')], 'dates': [row(d='2026-01-01'), row(d='x')],
    'line separators': [row(note='a\u2028b\u2029c\x85d\x0be\x1cf\r')],
    'CR between tokens': [b'{"messages": [{"role": "user", "content": "a"},\r'
        b' {"role": "assistant", "content": "b"}]}\n'], 'CRLF': [json.dumps(row()).encode() + b'\r\n']*2,
            'odd names': [row(**{'': 1, 'a.b': 2, 'a[]': 3, '\u2028': 4})],
    'texts': [dict(text='a'), dict(text='b', source='c')]}

formats = [row(), dict(prompt='a', completion='b'), dict(instruction='a', output='b'),
    dict(conversations=[{'from': 'human', 'value': 'a'}, {'from': 'gpt', 'value': 'b'}])]

def test_formats_that_are_mixed_are_made_one(tmp_path):
    data, clean = write(tmp_path/'data.jsonl', formats), tmp_path/'clean.jsonl'
    assert dict(check_file(data, fix=clean).counts) == dict(mixed_formats=3, not_for_trl=2)
    assert check_file(clean).exit_code == 0
    load_everywhere(clean, tmp_path)

@pytest.mark.parametrize('name', good)
def test_good_files_load(tmp_path, name):
    data = write(tmp_path/'data.jsonl', good[name])
    assert check_file(data).exit_code == 0
    load_everywhere(data, tmp_path)

# Any file: rows whose columns take a few types each, so that most files mix them somewhere

anything = st.characters(codec='utf-8')
text = st.text(anything, min_size=1, max_size=6) | st.sampled_from(['2026-01-01', '2026-01-01T10:00:00Z', '10:00', '1',
    'x\u2028y', '\x85'])
integers = st.integers(-9, 9) | st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64, -2**63, 10**25])
def nested(inner): return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['a', 'b', '']) | text, inner, max_size=3)
fractions = st.floats(-1e300, 1e300) # datasets' JSON columns make infinity of the last few below the largest
values = st.recursive(st.none() | st.booleans() | integers | fractions | text, nested,
    max_leaves=6)
turns = st.builds(lambda t, extra: [dict(user, content=t, **extra), assistant], text,
    st.dictionaries(st.sampled_from(['name', 'weight']), values, max_size=1))
call = st.builds(lambda a: dict(type='function', function=dict(name='f', arguments=a)),
    st.dictionaries(st.sampled_from(['a', 'b']), values, max_size=2) | text)
calls = st.builds(lambda c: [user, dict(role='assistant', content=None, tool_calls=c), dict(role='tool', content='4'),
    assistant], st.lists(call, min_size=1, max_size=2))
columns = st.dictionaries(st.sampled_from(['id', 'meta', 'date']), values, max_size=2)
messages = st.builds(lambda m, c: dict(messages=m, **c), turns | calls, columns)
others = st.builds(lambda a, b, c: dict(prompt=a, completion=b, **c), text, text, columns) | st.builds(lambda a,
    b: dict(instruction=a, output=b), text, text)
files = st.lists(messages, min_size=1, max_size=4) | st.lists(messages | others, min_size=1, max_size=4)

@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files)
def test_any_file_that_check_calls_good_loads(rows):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, clean = write(folder/'data.jsonl', rows), folder/'clean.jsonl'
        report = check_file(data, fix=clean)
        if not report.exit_code: load_everywhere(data, folder)
        if report.kept:
            assert check_file(clean).exit_code == 0
            load_everywhere(clean, folder)

def test_trl_formats_what_check_calls_good(tmp_path):
    "trl's own preparation of rows with tool calls, mixed arguments and odd characters, through both loaders."
    from ftcook.data import dry_trainer
    from ftcook.doctor.toy import toy_tokenizer
    rows = [row(), called(a=1), called(b='x'), named('Ann'), row(note='a\u2028b'),
        dict(messages=[dict(user, content='\x85 ok'), assistant])]
    write(tmp_path/'data.jsonl', rows)
    assert check_file(tmp_path/'data.jsonl', fix=tmp_path/'clean.jsonl').exit_code == 0
    loaded = datasets.load_dataset('json', data_files=str(tmp_path/'clean.jsonl'), split='train', cache_dir=str(tmp_path/'cache'))
    made = split(rows_of(tmp_path/'clean.jsonl'), test=1)
    for data in (loaded, made['train']): assert len(dry_trainer(list(data), toy_tokenizer()).train_dataset) == len(data)

# Larger files: load_dataset settles the types by the first 10 MiB

@pytest.mark.parametrize('first, later', [(row(), row(note='b')), (row(n=None), row(n='x')), (row(n=1), row(n=1.5)),
    (row(n=[]), row(n=[1])),
    (row(d='2026-01-01'), row(d='soon')), (row(m=dict(a=1)), row(m=dict(a=1, b=2))), (row(), named('Ann')), (row(), called(a=1))])
def test_a_field_that_comes_late_is_found(tmp_path, first, later):
    line = json.dumps(first).encode() + b'\n'
    data = write(tmp_path/'data.jsonl', [line*(11*2**20//len(line)), later])
    report = check_file(data)
    assert set(report.counts) == {'late_field'} and 'for the first time after 10 MiB' in str(report)
    assert check_file(write(tmp_path/'other.jsonl', [later, line*(11*2**20//len(line))])).exit_code == 0

def test_load_dataset_does_refuse_them(tmp_path):
    line = json.dumps(row()).encode() + b'\n'
    data = write(tmp_path/'data.jsonl', [line*(11*2**20//len(line)), row(note='b')])
    with pytest.raises(datasets.exceptions.DatasetGenerationError):
        datasets.load_dataset('json', data_files=str(data), split='train', cache_dir=str(tmp_path/'cache'))

def test_the_first_good_row_decides_and_is_named(tmp_path):
    data = write(tmp_path/'data.jsonl', [dict(prompt='p', chosen='a', rejected='b')] + [row()]*99)
    report = check_file(data)
    assert (report.kept, report.counts['mixed_kinds']) == (1, 99)
    assert report.examples['mixed_kinds'][0].message == 'a conversation, and line 1, the first good one, is a preference pair'
    for said in ('1 good (preference 1), 99 bad', 'line 2, 3, 4, 5, 6, …', 'if it is the stray'): assert said in str(report)

def test_packed_files_are_recognised(tmp_path):
    data = tmp_path/'data.jsonl.gz'
    data.write_bytes(gzip.compress(os.urandom(3000) + json.dumps(row()).encode()*100))
    report = check_file(data, fix=tmp_path/'clean.jsonl')
    assert set(report.counts) == {'compressed'} and 'gunzip' in str(report)
    assert report.examples['compressed'][0].message == 'gzip, not text'
    assert (report.rows, report.blank, report.counts['compressed']) == (1, 0, 1) # once, whatever its bytes look like
    assert (tmp_path/'clean.rejects.jsonl').stat().st_size > data.stat().st_size # all of it is kept

@pytest.mark.parametrize('content', ['\u200b', '\ufeff\u2060', '\u3164', '\u2800\n', '\u00ad', '\U000e0020', '\u202e\u202c',
    '\x7f\x1b', '\u180e\u200d'])
def test_what_nobody_can_see_is_empty(tmp_path, content):
    report = check_file(write(tmp_path/'data.jsonl', [dict(messages=[user, dict(role='assistant', content=content)])]))
    assert 'empty_content' in report.counts

@pytest.mark.parametrize('content', ['😀', '.', '一', '\u200d👩', 'ा', '¿', '٣'])
def test_what_can_be_seen_is_not_empty(tmp_path, content):
    assert not check_file(write(tmp_path/'data.jsonl', [dict(messages=[user, dict(role='assistant', content=content)])])).counts

def test_a_file_whose_keys_are_data_is_told_so_in_little_memory(tmp_path):
    with open(tmp_path/'data.jsonl', 'w') as f: f.writelines(json.dumps(row(**{f'key {i}': 1})) + '\n' for i in range(100_000))
    code = ('import sys, resource; from ftcook.data import check_file; r = check_file(sys.argv[1]); '
            'print(set(r.counts) == {"too_many_fields"}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)')
    starter = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {code!r}, sys.argv[1]], check=True)'
    said = subprocess.run([sys.executable, '-c', starter, tmp_path/'data.jsonl'], capture_output=True, text=True,
        check=True).stdout.split()
    assert said[0] == 'True' and int(said[1]) < 120, said

# Splits and cards

@pytest.mark.parametrize('sizes, message', [(dict(test=.999), 'leave none to train on'), (dict(test=20),
    'leave none to train on'),
    (dict(test=.5, validation=.5), 'test=0.5 and validation=0.5 of 10 rows leave none'), (dict(test=-1), 'must be a share'),
    (dict(test=1.5), 'must be a share'),
    (dict(test=float('nan')), 'must be a share'), (dict(test=float('inf')), 'must be a share'), (dict(test=10), 'leave none'),
    (dict(test=.04), 'no rows for test')])
def test_a_split_without_training_rows_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message): split([dict(id=i) for i in range(10)], **sizes)

def test_strata_of_one_row_leave_no_training_rows():
    with pytest.raises(ValueError, match='no rows for train'): split([dict(id=i) for i in range(10)], test=.6, by='stratified',
        key='id')

def test_a_split_keeps_every_column_and_no_key_that_was_not_there(tmp_path):
    rows = [row(id=i, **({'note': 'x'} if i % 3 == 0 else {})) for i in range(8)] + [called(a=1) | dict(id=8),
        called(b='x') | dict(id=9)]
    for parts in (made := split(rows, test=2), load_splits(write_splits(made, tmp_path, 'x', 'here', 'MIT'))):
        back = {r['id']: r for part in parts.values() for r in part}
        assert {i for i,r in back.items() if r.get('note')} == {0, 3, 6}
        assert [back[i]['messages'][1]['tool_calls'][0]['function']['arguments'] for i in (8, 9)] == [dict(a=1), dict(b='x')]

def test_what_arrow_cannot_hold_is_refused_with_its_row():
    with pytest.raises(DataError, match='row 1: n is an integer beyond 64 bits. Write it as text'): split([dict(),
        dict(n=2**64)]*5, test=2)

def changed(tmp_path, change):
    folder = write_splits(split([dict(id=i) for i in range(9)], test=3), tmp_path, 'toy', 'made up', 'CC0-1.0')
    card = json.loads((folder/'card.json').read_text())
    card = change(card) or card
    (folder/'card.json').write_text(card if isinstance(card, str) else json.dumps(card))
    return folder

@pytest.mark.parametrize('change, message', [
    (lambda c: c['splits']['test'].update(file='../secret'), "must be test.jsonl beside the card, and not '../secret'"),
    (lambda c: c['splits']['test'].update(file='/etc/hostname'), 'must be test.jsonl'),
    (lambda c: c['splits']['test'].update(file=3), "split 'test' has no file"),
    (lambda c: c.update(splits={'../x': dict(c['splits']['test'], file='../x.jsonl')}), 'beside the card'),
    (lambda c: c.update(sha256='0'*64), 'its sha256 is not that of its splits'),
    (lambda c: c['splits'].pop('test') and None, 'its sha256 is not'),
    (lambda c: c.pop('splits') and None, 'it has no splits'), (lambda c: '[]', 'it is no object'),
    (lambda c: '{"a"', 'is no data card'), (lambda c: '['*10**5, 'is no data card'),
    (lambda c: c.update(splits={'test': []}), "split 'test' is no object"), (lambda c: c.update(name=None), 'it has no name'),
    (lambda c: c['splits']['test'].update(rows=5), 'the content changed')])
def test_a_card_that_is_not_ours_is_refused(tmp_path, change, message):
    folder = changed(tmp_path, change)
    with pytest.raises(DataError, match=message): read_card(folder)

def test_a_folder_under_another_hash_is_refused(tmp_path):
    folder = changed(tmp_path, lambda c: c)
    other = folder.rename(folder.with_name('toy-0123456789ab'))
    with pytest.raises(DataError, match='the folder was renamed'): read_card(other)
    assert read_card(other.rename(folder.with_name('my-data')))['name'] == 'toy'

@pytest.mark.parametrize('name', ['../x', '/x', 'a/b', '..', ''])
def test_a_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match='becomes the name of a folder'): write_splits(split([dict(id=i) for i in range(9)],
        test=3), tmp_path/'sets', name, 'x', 'MIT')
    assert not (tmp_path/'sets').exists()

def test_limits_are_checked(tmp_path, capsys):
    data = write(tmp_path/'data.jsonl', [row()])
    assert main(['check', str(data), '--max-bytes', '99999999999999999999']) == 2
    assert 'max_bytes is 99999999999999999999; it must be from 1 to 2,147,483,648' in capsys.readouterr().err

def test_rows_with_calls_can_be_cleaned():
    assert dedupe([called(a=1), called(a=2), called(a=1)])[1][0]['reason'] == 'copy of row 0'
