"ftcook.data holds for any input: no crash, counts that add up, lossless repair, conversions that round-trip."
import base64, json, tempfile
from collections import Counter
from pathlib import Path
from hypothesis import HealthCheck, given, settings, strategies as st
from ftcook.data.check import FormatError, check_file, check_row, detect_format, from_messages, read_rows
from ftcook.data.check import to_messages, to_prompt_completion
from ftcook.data.check import _check_order, _decode_strictly, _well_ordered
from ftcook.data.kinds import head_bytes, recognise

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

# Values near to real rows: known keys and roles, anything inside
keys = st.sampled_from(('messages conversations prompt completion chosen rejected instruction input output system history '
                        'role content from value tool_calls a').split())
names = st.sampled_from(['', ' ', 'system', 'user', 'assistant', 'tool', 'human', 'gpt'])
numbers = st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
anything = st.characters(codec='utf-8', exclude_characters='\0')
atoms = st.none() | st.booleans() | numbers | names | st.text(anything, max_size=8)
values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)
rows = st.dictionaries(keys, values, max_size=5)

# Good conversations
texts = st.text(anything, min_size=1, max_size=20).filter(lambda o: any(c.isalnum() for c in o))
def messages(role, **extra): return st.builds(lambda text: [dict(role=role, content=text, **extra)], texts)
@st.composite
def answers(draw, last=False):
    "An assistant's turn, perhaps after tool calls."
    out = []
    for _ in range(draw(st.integers(0, 2))):
        call = dict(function=dict(name=draw(texts), arguments={}))
        out.append(dict(role='assistant', content=draw(st.none() | texts), tool_calls=[call]))
        for _ in range(draw(st.integers(1, 2))): out += draw(messages('tool'))
    return out + draw(messages('assistant'))
@st.composite
def conversations(draw, tools=True):
    out = draw(st.just([]) | messages('system'))
    for _ in range(draw(st.integers(1, 3))):
        out = out + draw(messages('user')) + draw(answers() if tools else messages('assistant'))
    return out
columns = st.dictionaries(st.sampled_from(['source', 'id', 'category', 'topic']), values, max_size=3)
@st.composite
def conversation_rows(draw, tools=True): return dict(messages=draw(conversations(tools))) | draw(columns)

def pieces(line): return b''.join([line.raw, *line.rest])

def check_everything(content, max_bytes):
    "All promises of check_file and its repair, on one file."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, clean = folder/'data.jsonl', folder/'clean.jsonl'
        data.write_bytes(content)
        report = check_file(data, fix=clean, max_bytes=max_bytes)
        lines = content.split(b'\n')
        if not lines[-1]: lines.pop()
        if recognise(content[:head_bytes], str(data)): lines = [content.removesuffix(b'\n')] # of another kind: rejected whole
        assert report.rows + report.blank == len(lines)
        assert report.rows == report.kept + report.rejected and report.kept == sum(report.formats.values())
        assert check_file(data, max_bytes=max_bytes).counts == report.counts
        assert bool(report.rejected) <= bool(report.counts) and report.exit_code == int(bool(report.counts))
        str(report), report._repr_markdown_(), json.dumps(report.to_dict())

        found = list(map(lambda o: (o.number, o.status, pieces(o)), read_rows(data, max_bytes)))
        assert b''.join(raw for *_,raw in found) == content
        counts = dict(kept=report.kept, rejected=report.rejected, blank=report.blank)
        assert Counter(status for _,status,_ in found) == Counter(counts) + Counter()

        kept = clean.read_bytes().split(b'\n')[:-1]
        assert len(kept) == report.kept
        for o in kept: assert check_row(json.loads(o)) == []
        if kept: assert check_file(clean, max_bytes=10**6).exit_code == 0
        rejects = [json.loads(o) for o in (folder/'clean.rejects.jsonl').read_bytes().split(b'\n')[:-1]]
        assert [o['line'] for o in rejects] == [number for number,status,_ in found if status == 'rejected']
        for o in rejects:
            raw = o['raw'].encode() if 'raw' in o else base64.b64decode(o['base64'], validate=True)
            assert raw == lines[o['line']-1] and o['problems']
        assert sorted(p.name for p in folder.iterdir()) == ['clean.jsonl', 'clean.rejects.jsonl', 'data.jsonl']

@many
@given(st.binary(max_size=400), st.integers(1, 100))
def test_arbitrary_bytes(content, max_bytes): check_everything(content, max_bytes)

tokens = [b'{', b'}', b'[', b']', b'"', b':', b',', b'\\', b'\n', b'\r\n', b' ', b'\xef\xbb\xbf', b'\xff', b'\0', b'\\ud800',
          b'\\u003a', b'"messages"', b'"role"', b'"user"', b'1', b'null', 'é'.encode()]

@many
@given(st.lists(st.sampled_from(tokens), max_size=40).map(b''.join), st.integers(1, 200))
def test_arbitrary_tokens(content, max_bytes): check_everything(content, max_bytes)

def as_bytes(row, ascii, damage):
    text = json.dumps(row, ensure_ascii=ascii).encode('utf-8', 'surrogatepass')
    at, what = damage
    return text if what is None else text[:at] + what + text[at+1:]

damages = st.tuples(st.integers(0, 100), st.sampled_from([None, None, None, b'', b'\n', b'\xff', b'"']))
nearly_good = st.lists(st.builds(as_bytes, rows | conversation_rows(), st.booleans(), damages), max_size=6)
line_ends = st.sampled_from([b'\n', b'\r\n', b'\n\n', b'\n\xef\xbb\xbf'])

@many
@given(nearly_good, line_ends, st.sampled_from([30, 200, 10**6]))
def test_nearly_good_files(lines, end, max_bytes): check_everything(end.join(lines), max_bytes)

@many
@given(values | rows)
def test_no_row_crashes(row):
    problems = check_row(row)
    if not isinstance(row, dict): return
    try: converted = to_messages(row)
    except FormatError: return
    assert check_row(converted) == problems and to_messages(converted) == converted
    for to in ('messages', 'sharegpt', 'alpaca', 'prompt_completion'):
        try: assert to_messages(from_messages(row, to)) == converted and not problems
        except FormatError: pass

def well_ordered(turns):
    "The rules once more, as a state machine."
    body, wanted = turns.removeprefix('s'), 'u'
    if body.startswith('au'): body = body[1:] # a greeting
    for turn in body:
        if turn not in wanted: return False
        wanted = dict(u='ac', a='u', c='t', t='tac')[turn]
    return body[-1:] in ('a', 'c')

parts_of_order = st.lists(st.sampled_from(['s', 'ua', 'uca', 'ucta', 'ucttcta', 'uc', 'u', 'a', 't']), min_size=1, max_size=4)

@settings(many, max_examples=600)
@given(st.text('suatc', min_size=1, max_size=12) | parts_of_order.map(''.join))
def test_order_is_explained_exactly_when_it_is_wrong(turns):
    assert bool(_well_ordered(turns)) == well_ordered(turns) == (not list(_check_order(turns)))

# Repeated keys: counting colons must agree with a parser that sees every key

@st.composite
def json_texts(draw, depth=3):
    "JSON with perhaps repeated keys and needless escapes."
    def string():
        def escaped(c):
            if draw(st.integers(0, 5)) == 0: return f'\\u{ord(c):04x}'
            return f'\\u{ord(c):04X}' if draw(st.integers(0, 5)) == 0 else json.dumps(c)[1:-1]
        return '"' + ''.join(map(escaped, draw(st.text('ab:\\"u03Aé', max_size=4)))) + '"'
    kind = draw(st.integers(0, 3 if depth else 1))
    if kind == 0: return string()
    if kind == 1: return draw(st.sampled_from(['1', 'null', '-0', '1.50', 'true', '1e3']))
    inner = [draw(json_texts(depth=depth-1)) for _ in range(draw(st.integers(0, 3)))]
    if kind == 2: return '[' + ','.join(inner) + ']'
    return '{' + ', '.join(f'{string()} : {o}' for o in inner) + '}'

@settings(many, max_examples=500)
@given(json_texts())
def test_repeated_keys_are_found_exactly(text):
    repeated = []
    def seen(pairs):
        repeated.extend(k for k,n in Counter(k for k,_ in pairs).items() if n > 1)
        return dict(pairs)
    row = json.loads(text, object_pairs_hook=seen)
    assert _decode_strictly(text.encode()) == (row, repeated)

# Conversions

@many
@given(conversation_rows(), st.sampled_from(['messages', 'sharegpt', 'prompt_completion']))
def test_conversations_round_trip(row, to):
    assert check_row(row) == []
    out = from_messages(row, to)
    assert detect_format(out) == to and to_messages(out) == row and check_row(out) == []

@many
@given(conversation_rows(tools=False))
def test_conversations_round_trip_through_alpaca(row):
    out = from_messages(row, 'alpaca')
    assert detect_format(out) == 'alpaca' and to_messages(out) == row and check_row(out) == []

@many
@given(conversation_rows())
def test_prompt_completion_splits_before_the_last_turn(row):
    out = to_prompt_completion(row)
    assert out['prompt'] + out['completion'] == row['messages']
    assert [m['role'] for m in out['completion']] == ['assistant']

perhaps = texts | st.sampled_from(['', None])
histories = st.lists(st.lists(texts, min_size=2, max_size=2), max_size=2) | st.none()
alpacas = st.builds(lambda required, optional: required | optional, st.fixed_dictionaries(dict(instruction=texts, output=texts)),
                    st.fixed_dictionaries({}, optional=dict(input=perhaps, system=perhaps, history=histories)))

def as_sharegpt(pairs):
    return dict(conversations=[{'from': role, 'value': text} for pair in pairs for role,text in zip(('human', 'gpt'), pair)])

sharegpts = st.builds(as_sharegpt, st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
completions = st.fixed_dictionaries(dict(prompt=texts, completion=texts))

@many
@given(alpacas | sharegpts | completions, columns)
def test_other_formats_round_trip(row, extra):
    row = row | extra
    name, converted = detect_format(row), to_messages(row)
    assert check_row(row) == [] and to_messages(from_messages(row, name)) == converted
    assert {k: converted[k] for k in extra} == extra
    if name == 'sharegpt': assert from_messages(row, name) == row

@many
@given(conversations(), texts, texts, columns)
def test_preference_pairs_stay_pairs(prompt, chosen, rejected, extra):
    if chosen == rejected: rejected += '!'
    prompt = prompt + [dict(role='user', content='And?')]
    def answer(text): return [dict(role='assistant', content=text)]
    pair = dict(prompt=prompt, chosen=answer(chosen), rejected=answer(rejected)) | extra
    whole = dict(chosen=prompt + pair['chosen'], rejected=prompt + pair['rejected']) | extra
    assert check_row(pair) == check_row(whole) == [] and to_messages(pair) == pair and to_messages(whole) == pair
