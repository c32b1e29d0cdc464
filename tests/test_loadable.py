"What `check` calls good, the trainer loads; what it does not, it names, and `--fix` mends it or keeps it apart."
import gzip, json, math, os, subprocess, sys, tempfile
from pathlib import Path
import datasets, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from ftcook.cli import main
from ftcook.data import DataError, check_file, dedupe, load_splits, read_card, read_rows, split, to_messages, write_splits

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
    'text, list': [row(m='b'), row(m=['b'])], 'bool, number': [row(n=True), row(n=1)], 'long, float': [row(n=2**53 + 1), row(n=.5)],
    '2^63': [row(n=2**63)], '2^64': [row(), row(n=2**64)], '-2^63-1': [row(n=-2**63 - 1)], '10^30 inside': [row(m=dict(a=[10**30]))],
    'big, text': [row(n=2**64), row(n='b'), row(n=1)], 'arguments': [called(a=1), called(a='x'), called(b=[1])], 'names': [named('n'), named(3)],
    'deep arguments': [called(a=dict(b=1)), called(a=dict(b=dict(c=2)))], 'call ids': [row(), dict(messages=[user, dict(role='assistant',
        tool_calls=[dict(id=1, function=dict(name='f')), dict(id='b', function=dict(name='f', arguments='{}'))])])],
    'arguments as text and object': [called(a=1), dict(messages=[user, dict(role='assistant', tool_calls=[dict(function=dict(name='f', arguments='{}'))])])],
    'tools': [row(tools=[dict(name='f', parameters=dict(default=1))]), row(tools=[dict(name='g', parameters=dict(default='x'))])],
    'prompt as text and turns': [dict(prompt='Hi', completion='Hello'), dict(prompt=[user], completion=[assistant])],
    'pairs as text and turns': [dict(prompt='Hi', chosen='a', rejected='b'), dict(prompt=[user], chosen=[assistant], rejected=[dict(assistant, content='b')])]}

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
    'other arguments': [called(a=1), called(b='x'), row()], 'other keys': [row(m=dict(a=1)), row(m=dict(b=[1])), row(m={})], 'nothing': [row(n=None), row(n=[])],
    'int, float': [row(n=1), row(n=1.5)], 'largest': [row(n=2**63 - 1), row(n=-2**63)], 'a later column': [row(), row(note='b')], 'dates': [row(d='2026-01-01'), row(d='x')],
    'line separators': [row(note='a\u2028b\u2029c\x85d\x0be\x1cf\r')], 'CR between tokens': [b'{"messages": [{"role": "user", "content": "a"},\r'
        b' {"role": "assistant", "content": "b"}]}\n'], 'CRLF': [json.dumps(row()).encode() + b'\r\n']*2, 'odd names': [row(**{'': 1, 'a.b': 2, 'a[]': 3, '\u2028': 4})],
    'formats': [row(), dict(prompt='a', completion='b'), dict(instruction='a', output='b'), dict(conversations=[{'from': 'human', 'value': 'a'}, {'from': 'gpt', 'value': 'b'}])]}

@pytest.mark.parametrize('name', good)
def test_good_files_load(tmp_path, name):
    data = write(tmp_path/'data.jsonl', good[name])
    assert check_file(data).exit_code == 0
    load_everywhere(data, tmp_path)

# Any file: rows whose columns take a few types each, so that most files mix them somewhere

anything = st.characters(codec='utf-8')
text = st.text(anything, min_size=1, max_size=6) | st.sampled_from(['2026-01-01', '2026-01-01T10:00:00Z', '10:00', '1', 'x\u2028y', '\x85'])
integers = st.integers(-9, 9) | st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64, -2**63, 10**25])
def nested(inner): return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['a', 'b', '']) | text, inner, max_size=3)
values = st.recursive(st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text, nested, max_leaves=6)
turns = st.builds(lambda t, extra: [dict(user, content=t, **extra), assistant], text, st.dictionaries(st.sampled_from(['name', 'weight']), values, max_size=1))
call = st.builds(lambda a: dict(type='function', function=dict(name='f', arguments=a)), st.dictionaries(st.sampled_from(['a', 'b']), values, max_size=2) | text)
calls = st.builds(lambda c: [user, dict(role='assistant', content=None, tool_calls=c), dict(role='tool', content='4'), assistant], st.lists(call, min_size=1, max_size=2))
columns = st.dictionaries(st.sampled_from(['id', 'meta', 'date']), values, max_size=2)
messages = st.builds(lambda m, c: dict(messages=m, **c), turns | calls, columns)
others = st.builds(lambda a, b, c: dict(prompt=a, completion=b, **c), text, text, columns) | st.builds(lambda a, b: dict(instruction=a, output=b), text, text)
files = st.lists(messages, min_size=1, max_size=4) | st.lists(messages | others, min_size=1, max_size=4)

@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
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
