"ftcook.data's checker: every problem it knows, hostile input, repair, the command line, speed and memory."
import base64, gzip, json, os, resource, subprocess, sys, threading, time
from pathlib import Path
import pytest
from ftcook.cli import main
from ftcook.data.check import FormatError, check_file, from_messages, remedies, to_messages, to_prompt_completion

here = Path(__file__).parent
user, assistant = dict(role='user', content='Hi'), dict(role='assistant', content='Hello')
call = dict(role='assistant', content=None, tool_calls=[dict(function=dict(name='f', arguments={}))])
tool, system = dict(role='tool', content='4'), dict(role='system', content='Be brief.')
def row(*messages, **columns): return json.dumps(dict(messages=list(messages), **columns), ensure_ascii=False)
fine = row(user, assistant)

def check(tmp_path, content, **kwargs):
    path = tmp_path/'data.jsonl'
    path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8', 'surrogatepass'))
    return check_file(path, **kwargs)

def answered(**message): return row(user, dict(role='assistant', **message))

broken = [
    ('invalid_json', "{'messages': []}\n"),
    ('nan', fine[:-1] + ',"score":NaN}\n'),
    ('nan', fine[:-1] + ',"score":[1,-Infinity]}'),
    ('invalid_json', fine[:-1] + ',"score":NaN,}\n'),
    ('invalid_json', fine[:-1] + ',}\n'),
    ('invalid_json', fine + fine + '\n'),
    ('invalid_json', fine[:50] + '\n'),
    ('invalid_json', '{"a": "\x01"}\n'),
    ('truncated', fine[:50]),
    ('truncated', fine.encode()[:-1]),
    ('truncated', answered(content='é').encode()[:-6]),
    ('encoding', fine.replace('Hello', 'café').encode('latin1') + b'\n'),
    ('encoding', (fine + '\n').encode('utf-16')),
    ('encoding', (fine + '\n').encode('utf-16-le')),
    ('encoding', b'\0'*50 + b'\n'),
    ('encoding', fine.replace('Hello', '\ud83d').encode('utf-8', 'surrogatepass') + b'\n'),
    ('compressed', gzip.compress(fine.encode(), mtime=0)),
    ('compressed', b'PK\x03\x04\x14\0\n\n'),
    ('bom', '\ufeff' + fine + '\n'),
    ('duplicate_key', '{"messages": [], ' + fine[1:] + '\n'),
    ('duplicate_key', fine.replace('"content": "Hi"', '"content": "Hi", "content": "Hi"') + '\n'),
    ('duplicate_key', fine.replace('"role": "user"', r'"role": "user", "r\u006fle": "user"') + '\n'),
    ('duplicate_key', fine[:-1] + r',"m":{"a":1,"a":2},"b":"\u003A\u003a"}' + '\n'),
    ('lone_surrogate', fine.replace('Hello', r'\ud83d') + '\n'),
    ('lone_surrogate', fine[:-1] + r',"\udc00":1}' + '\n'),
    ('too_long', answered(content='x'*3000) + '\n'),
    ('blank_line', fine + '\n\n' + fine + '\n'),
    ('blank_line', fine + '\n  \t\r\n'),
    ('no_rows', ''),
    ('not_object', '[1, 2]\n'),
    ('not_object', 'null\n'),
    ('not_object', f'[{fine}]\n[{fine}]\n'),
    ('json_array', f'[{fine}]\n'), ('json_array', f'[\n{fine},\n{fine}\n]'), ('json_array', f'[{fine},\n{fine}]\n'),
    ('pretty_json', json.dumps(dict(messages=[user, assistant]), indent=1)),
    ('no_data', '{"architectures": ["LlamaForCausalLM"], "hidden_size": 8}\n'),
    ('csv', 'question,answer\n"a, b",c\nd,e\n'), ('csv', 'instruction\toutput\na\tb\n'),
    ('csv', 'prompt|completion\na|b\n'), ('csv', 'instruction,output\n"Write\na poem","b"\n'),
    ('plain_text', 'Once upon a time there was a king.\nHe had a cat.\n'), ('no_data', '{"loss": 2.5, "epoch": 0.1}\n'),
    ('parquet', b'PAR1\x15\0'), ('arrow', b'ARROW1\0\0'), ('binary_file', b'SQLite format 3\0'),
    ('lfs_pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n'),
    ('web_page', '<!DOCTYPE html>\n<html></html>'), ('web_page', '<?xml version="1.0"?><Error>AccessDenied</Error>'),
    ('web_page', 'Entry not found'), ('web_page', 'Invalid username or password.'),
    ('unknown_format', '{"question": "?", "answer": "!"}\n'),
    ('unknown_format', '{}\n'),
    ('unknown_format', '{"instruction": "a", "output": "b", "history": [1]}\n'),
    ('unknown_format', '{"instruction": "a", "output": "b", "history": "c"}\n'),
    ('mixed_kinds', fine + '\n{"prompt": "a", "chosen": "b", "rejected": "c"}\n'),
    ('mixed_kinds', '{"text": "a"}\n' + fine), ('mixed_kinds', '{"prompt": "a", "completion": "b", "label": true}\n' + fine),
    ('mixed_formats', fine + '\n{"prompt": "a", "completion": "b"}\n'),
    ('not_for_trl', '{"instruction": "a", "output": "b"}'),
    ('not_for_trl', '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}'),
    ('not_for_trl', '{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'),
    ('not_for_trl', '{"messages": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}'),
    ('not_for_trl', fine[:-1] + ',"prompt":"Hi"}'), ('not_for_trl', fine[:-1] + ',"system":"Be brief."}'),
    ('not_for_trl', fine[:-1] + ',"system_message":"Be brief."}'),
    ('not_for_trl', '{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}'),
    ('not_for_trl', '{"prompt": "What is the capital of Peru?", "completion": "What is the capital of Peru? Lima"}'),
    ('not_for_trl', '{"question": "a", "chosen": "b", "rejected": "c"}'),
    ('not_for_trl', json.dumps(dict(prompt='a', chosen=[assistant], rejected=[dict(assistant, content='c')]))),
    ('not_for_trl', '{"instruction": "a", "output": "b", "kto_tag": true}'),
    ('loss_mark', answered(content='no', weight=0)), ('loss_mark', answered(content='no', train=False)),
    ('loss_mark', answered(content='no', loss=False)),
    ('lost_reasoning', row(user, dict(assistant, content='<think>\nhm\n</think>a'), user, assistant)),
    ('lost_reasoning', row(user, dict(assistant, reasoning_content='hm'), user, assistant)),
    ('one_class', '{"prompt": "a", "completion": "b", "label": true}\n{"prompt": "c", "completion": "d", "label": true}'),
    ('image_count', row(dict(user, content=[dict(type='image'), dict(type='text', text='a')]), assistant, images=[])),
    ('image_mark', row(dict(user, content='<image> What is it?'), assistant, images=['a.png'])),
    ('bad_tool_call', row(user, assistant, tools='f(x)')), ('unknown_format', '{"data": [{"prompt": "a", "completion": "b"}]}'),
    ('invalid_json', fine + fine),
    ('bad_tokens', '{"input_ids": ["a"]}'), ('bad_tokens', '{"input_ids": [1, 2], "labels": [1]}'),
    ('bad_tokens', '{"input_ids": [1, 2], "labels": [-100, -100]}'),
    ('bad_steps', '{"prompt": "a", "completions": ["b"], "labels": []}'),
    ('json_text', '{"messages": "[{\\"role\\": \\"user\\"}]"}'),
    ('json_text', '{"prompt": "[{\'role\': \'user\'}]", "completion": "a"}'),
    ('no_messages', '{"messages": []}\n'),
    ('no_messages', '{"messages": "Hi"}\n'),
    ('no_messages', '{"conversations": null}\n'),
    ('bad_message', '{"messages": ["Hi"]}\n'),
    ('missing_role', row(user, dict(content='Hello'))),
    ('unknown_role', row(user, dict(role='bot', content='Hello'))),
    ('unknown_role', row(user, dict(role=['x'], content='Hello'))),
    ('unknown_role', row(user, dict(role='assistant (tool call)', content='Hello'))),
    ('unknown_role', '{"conversations": [{"from": ["human"], "value": "Hi"}]}'),
    ('system_not_first', row(user, system, assistant)),
    ('system_not_first', row(system, system, user, assistant)),
    ('not_alternating', row(user, user, assistant)),
    ('not_alternating', row(user, assistant, assistant)),
    ('not_alternating', row(assistant)),
    ('not_alternating', row(user, call, assistant)),
    ('last_not_assistant', row(user, assistant, user)),
    ('last_not_assistant', row(system)),
    ('last_not_assistant', row(user, call, tool)),
    ('tool_without_call', row(user, assistant, tool, assistant)),
    ('tool_without_call', row(user, tool, assistant)),
    ('empty_content', answered(content=' \n')),
    ('empty_content', answered(content='')),
    ('empty_content', answered(content='\u200b\ufeff \u2060')),
    ('bad_tool_call', row(user, {**call, 'tool_calls': 'nonsense'})),
    ('bad_tool_call', row(user, {**call, 'tool_calls': [{}]})),
    ('bad_tool_call', row(user, {**call, 'tool_calls': [dict(function=dict(name=''))]})),
    ('bad_tool_call', row(user, {**call, 'tool_calls': [dict(function=dict(name='f', arguments=3))]})),
    ('bad_tool_call', row({**user, 'tool_calls': 0}, assistant)),
    ('nul_character', answered(content='a\0b')),
    ('nul_character', fine[:-1] + r',"a\u0000b":1}'),
    ('too_nested', fine[:-1] + ',"x":' + '['*50 + ']'*50 + '}'),
    ('mixed_types', fine[:-1] + ',"id":1}\n' + fine[:-1] + ',"id":"b"}'),
    ('mixed_types', fine[:-1] + ',"tags":[1,"a"]}'),
    ('mixed_types', fine[:-1] + ',"n":9007199254740993}\n' + fine[:-1] + ',"n":1.5}'),
    ('big_integer', fine[:-1] + ',"id":18446744073709551616}'),
    ('big_integer', fine[:-1] + ',"id":' + '9'*300 + '}'),
    ('late_field', (fine + '\n')*115_000 + fine[:-1] + ',"note":"b"}'),
    ('too_many_fields', '\n'.join(fine[:-1] + f',"{i:0500}":1}}' for i in range(600))),
    ('agent_trace', row(system, user, assistant)[:-1] + ',"id":"a","source":"b","model":"c","system_prompt":"d"}'),
    ('bad_content', answered(content=None)),
    ('bad_content', answered()),
    ('bad_content', answered(content=[dict(type='text', text='Hello')])),
    ('bad_content', row(user, {**call, 'content': 4}, tool, assistant)),
    ('bad_content', '{"prompt": 1, "completion": "b"}'),
    ('bad_content', '{"instruction": null, "input": "x", "output": "b"}'),
    ('same_pair', '{"prompt": "a", "chosen": "b", "rejected": "b"}')]

@pytest.mark.parametrize('code,content', broken)
def test_each_problem_is_found_and_nothing_else(tmp_path, code, content):
    report = check(tmp_path, content, max_bytes=2000)
    assert set(report.counts) == {code}, report
    assert report.exit_code == 1
    assert remedies[code] in str(report) and code in report._repr_markdown_()
    for p in report.examples[code]: assert p.message and (p.line > 0 or code in ('no_rows', 'one_class'))

def test_every_problem_is_tested(): assert {code for code,_ in broken} == set(remedies)

pair = '"chosen": [%s, {"role": "assistant", "content": "b"}], "rejected": [%s, {"role": "assistant", "content": "c"}]'
pair = pair.replace('%s', '{"role": "user", "content": "a"}')

@pytest.mark.parametrize('content', [
    fine, fine + '\n', fine + '\r\n', '  ' + fine + '  \n',
    row(system, user, assistant, user, assistant),
    row(user, call, tool, tool, assistant),
    row(user, call),
    row(user, {**call, 'content': 'Let me see.'}, tool, assistant),
    row(user, dict(role='assistant', tool_calls=call['tool_calls']), tool, assistant),
    fine[:-1] + r',"note":"a:b\u003ac"}',
    fine[:-1] + ',"n":1e300}',
    '{"conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}',
    '{"instruction": "a", "output": "b", "text": "### Instruction: a\\n### Response: b"}',
    '{"prompt": null, "chosen": "a", "rejected": "b"}', '{"text": "a"}', '{"prompt": "a"}',
    '{"prompt": [{"role": "user", "content": "a"}], "answer": "7"}',
    '{"prompt": "a", "completion": "b", "label": "positive"}', '{"prompt": "a", "completion": "b", "label": false}',
    '{"prompt": "a", "completion": "b", "label": 0}\n{"prompt": "c", "completion": "d", "label": 1}',
    '{"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [-100, 2]}',
    '{"prompt": "a", "completions": ["b", "c"], "labels": [true, false]}',
    '{"chosen": "Human: a Assistant: b", "rejected": "Human: a Assistant: c"}',
    '{"prompt": "a", ' + pair + '}',
    row(assistant, user, assistant), row(system, assistant, user, assistant),
    row(dict(system, role='developer'), user, assistant),
    row(dict(system, content=''), user, assistant),
    row(user, dict(assistant, weight=1)), row(dict(user, weight=0), assistant),
    row(user, dict(assistant, content='<think>hm</think>a')),
    row(user, dict(assistant, content='<think>\n\n</think>a'), user, assistant),
    row(dict(user, content=[dict(type='image'), dict(type='text', text='a')]), assistant, images=['a.png']),
    row(dict(user, content=[dict(type='text', text='a')]), assistant, images=[]),
    row(dict(user, content='The weight, the loss and the train think'), assistant, system=''),
    '{' + pair + '}',
    '{"prompt": "a", "messages": [], ' + pair + '}'])
def test_good_rows_pass(tmp_path, content): assert check(tmp_path, content).exit_code == 0

@pytest.mark.parametrize('code,content', broken)
def test_a_fixed_file_has_no_problem_that_a_program_can_mend(tmp_path, code, content):
    check(tmp_path, content, fix=tmp_path/'clean.jsonl')
    left = check_file(tmp_path/'clean.jsonl').counts
    assert set(left) <= {'no_rows', 'one_class', 'lost_reasoning', 'late_field', 'too_many_fields', 'agent_trace', 'big_integer'}

@pytest.mark.parametrize('given,made', [
    (dict(conversations=[{'from': 'human', 'value': 'q'}], chosen={'from': 'gpt', 'value': 'a'},
          rejected={'from': 'gpt', 'value': 'b'}),
     dict(prompt='q', chosen='a', rejected='b')),
    (dict(instruction='q', input='r', chosen='a', rejected='b'), dict(prompt='q\n\nr', chosen='a', rejected='b')),
    (dict(system='s', question='q', chosen='a', rejected='b'), dict(system='s', prompt='q', chosen='a', rejected='b')),
    (dict(prompt='A question that is long.', chosen='A question that is long. a', rejected='A question that is long. b'),
     dict(prompt='A question that is long.', chosen=' a', rejected=' b')),
    (dict(instruction='q', input='', output='a', kto_tag=False), dict(prompt='q', completion='a', label=False)),
    (dict(messages=[dict(role='user', content='q'), dict(role='assistant', content='a')], label=True),
     dict(prompt='q', completion='a', label=True))])
def test_other_programs_shapes_become_trls(given, made): assert to_messages(given) == to_messages(made)

def test_function_calls_of_sharegpt_become_tool_calls():
    turns = [('human', 'q'), ('function_call', '{"name": "f", "arguments": {"a": 1}}'), ('observation', '4'), ('gpt', 'b')]
    made = to_messages(dict(conversations=[{'from': who, 'value': text} for who,text in turns]))['messages']
    assert [m['role'] for m in made] == ['user', 'assistant', 'tool', 'assistant']
    assert made[1]['tool_calls'] == [dict(type='function', function=dict(name='f', arguments=dict(a=1)))]

def test_prompt_is_taken_out_of_the_answers():
    pair = dict(prompt=[user], chosen=[assistant], rejected=[dict(role='assistant', content='Bye')])
    whole = {k: [user] + pair[k] for k in ('chosen', 'rejected')}
    assert to_messages(whole) == to_messages(dict(prompt='Hi', **whole)) == to_messages(pair) == pair

def test_conversion_errors_are_clear():
    with pytest.raises(FormatError, match="'question', 'answer'"): to_messages(dict(question='?', answer='!'))
    good = dict(messages=[user, assistant])
    with pytest.raises(FormatError, match='use one of messages, sharegpt'): from_messages(good, 'chatml')
    with pytest.raises(FormatError, match='the last message is user'): to_prompt_completion(dict(messages=[user]))
    with pytest.raises(FormatError, match='preference pair'): to_prompt_completion(dict(prompt='a', chosen='b', rejected='c'))
    for column in ('history', 'instruction'):
        with pytest.raises(FormatError, match='would lose|history must be'): from_messages(good | {column: 'x'}, 'alpaca')
    named = dict(messages=[{**user, 'name': 'Ann'}, assistant])
    with pytest.raises(FormatError, match='would lose'): from_messages(named, 'alpaca')

# Hostile input

hostile = {
    'deep list': b'['*100_000 + b'\n',
    'deep list, closed': b'['*100_000 + b']'*100_000 + b'\n',
    'deep object': b'{"messages":'*100_000 + b'\n',
    'closed object': b'{"messages":'*900 + b'1' + b'}'*900 + b'\n',
    'huge integer': b'{"a":' + b'9'*100_000 + b'}\n',
    'huge exponent': b'{"a":1e999999999}\n',
    'NUL bytes': b'\0'*1000 + b'\n',
    'all bytes': bytes(range(256))*10,
    'many bad messages': b'{"messages":[' + b'0,'*400_000 + b'0]}\n',
    'many messages': b'{"messages":[' + b'{"role":"user"},'*60_000 + b'{}]}\n',
    'many keys': b'{' + b','.join(b'"%d":0' % i for i in range(80_000)) + b'}\n',
    'a key 100,000 times': b'{' + b'"a":0,'*100_000 + b'"a":0}\n',
    'only newlines': b'\n'*10_000,
    'only BOMs': b'\xef\xbb\xbf\n'*100}

@pytest.mark.parametrize('name', hostile)
def test_hostile_input_is_reported_not_fatal(tmp_path, name):
    start = time.perf_counter()
    report = check(tmp_path, hostile[name], fix=tmp_path/'clean.jsonl')
    assert report.kept == 0 and report.exit_code == 1
    assert len(str(report)) < 5000 and time.perf_counter() - start < 10

def test_every_depth_of_nesting_is_survived(tmp_path):
    rows = [fine[:-1] + ',"x":' + '['*n + ']'*n + '}' for n in range(1, 1100, 7)]
    rows += ['{"instruction":"a","output":"b","z":' + '{"y":'*n + '{}' + '}'*n + '}' for n in range(1, 1100, 7)]
    report = check(tmp_path, '\n'.join(rows), fix=tmp_path/'clean.jsonl')
    assert report.rows == len(rows) and set(report.counts) <= {'invalid_json', 'too_nested', 'mixed_formats', 'not_for_trl'}
    assert report.kept == 2*sum(n <= 40 for n in range(1, 1100, 7))

def test_terminal_escapes_do_not_reach_the_terminal(tmp_path):
    unknown = row(dict(role='\x1b[31m|<script>\r', content='a'), {'role': 'assistant', 'content': {'\x1b]0;': 1}})
    empty = row(dict(role='\x1b[31m'*100_000, content=''))
    report = check(tmp_path, unknown + '\n' + empty + '\n{"\x7f\\u001b[2J|<b>": 1}')
    shown = str(report) + report._repr_markdown_() + ''.join(p.message for found in report.examples.values() for p in found)
    assert '\x1b' not in shown and '\r' not in shown and '<b>' not in report._repr_markdown_() and len(shown) < 5000

def test_a_100_mb_line_stays_out_of_memory(tmp_path):
    path = tmp_path/'long.jsonl'
    with path.open('wb') as f:
        f.write(fine.encode() + b'\n')
        for _ in range(100): f.write(b'x'*10**6)
        f.write(b'\n' + fine.encode())
    code = ('import sys, resource; from ftcook.data import check_file; r = check_file(sys.argv[1], fix=sys.argv[2]); '
            'print(r.kept, r.rejected, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)')
    script = tmp_path/'run.py' # a small process starts the measured one, whose peak would else begin at pytest's
    script.write_text(f'import subprocess, sys; subprocess.run([sys.executable, "-c", {code!r}, *sys.argv[1:]], check=True)')
    run = subprocess.run([sys.executable, script, path, tmp_path/'clean.jsonl'], capture_output=True, check=True)
    kept, rejected, peak = map(int, run.stdout.split())
    assert (kept, rejected) == (2, 1) and peak < 150
    head, raw = (tmp_path/'clean.rejects.jsonl').read_bytes().split(b'"base64":"')
    assert b'"line":2,' in head and base64.b64decode(raw.removesuffix(b'"}\n'), validate=True) == b'x'*10**8

@pytest.mark.parametrize('extra', [-1, 0, 1])
def test_the_limit_is_exact(tmp_path, extra):
    for end in (b'\n', b''):
        assert check(tmp_path, fine.encode() + end, max_bytes=len(fine.encode()) + extra).kept == int(extra >= 0)

# Repair

def test_repair_keeps_good_rows_as_they_are_and_loses_nothing(tmp_path):
    good = [fine + ' ', '\t' + row(system, user, assistant, id=10**15)]
    bad = [row(user), '\ufeff{"a": "\u2028"}', r'{"b":"\ud800"}\r']
    latin, alpaca = 'é'.encode('latin1') + b' ', '{"instruction":"a","output":"b","id":1000000000000001}'
    content = '\n'.join([good[0], bad[0], '', good[1], alpaca, bad[1], bad[2]]).encode() + b'\r\n' + latin + b'\n'
    report = check(tmp_path, content, fix=tmp_path/'out.jsonl')
    assert (report.rows, report.kept, report.rejected, report.blank) == (7, 3, 4, 1)
    lines = (tmp_path/'out.jsonl').read_text().splitlines()
    assert lines[:2] == [o.strip() for o in good] and json.loads(lines[2]) == to_messages(json.loads(alpaca))
    rejects = [json.loads(o) for o in (tmp_path/'out.rejects.jsonl').open()]
    assert [o['raw'] for o in rejects[:3]] == [bad[0], bad[1], bad[2] + '\r'] and base64.b64decode(rejects[3]['base64']) == latin
    assert [o['line'] for o in rejects] == [2, 6, 7, 8]
    reason = dict(code='last_not_assistant', message='the last message is user', remedy=remedies['last_not_assistant'])
    assert rejects[0]['problems'] == [reason]
    assert check_file(tmp_path/'out.jsonl').exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['data.jsonl', 'out.jsonl', 'out.rejects.jsonl']

def test_repair_of_a_clean_file_empties_old_rejects(tmp_path):
    check(tmp_path, row(user), fix=tmp_path/'clean.jsonl')
    assert (tmp_path/'clean.rejects.jsonl').stat().st_size
    check(tmp_path, fine, fix=tmp_path/'clean.jsonl')
    assert (tmp_path/'clean.rejects.jsonl').stat().st_size == 0 and (tmp_path/'clean.jsonl').read_text() == fine + '\n'

def test_repair_refuses_to_overwrite_its_input(tmp_path):
    data = tmp_path/'data.jsonl'
    (tmp_path/'soft.jsonl').symlink_to(data)
    for name in ('data.jsonl', 'hard.jsonl', 'soft.jsonl'):
        with pytest.raises(ValueError, match='would overwrite the input'):
            if name == 'hard.jsonl':
                data.write_text(fine)
                os.link(data, tmp_path/name)
            check(tmp_path, fine, fix=tmp_path/name)
    (tmp_path/'a.rejects.jsonl').write_text(fine)
    with pytest.raises(ValueError, match='would overwrite'): check_file(tmp_path/'a.rejects.jsonl', fix=tmp_path/'a.jsonl')
    assert data.read_text() == (tmp_path/'a.rejects.jsonl').read_text() == fine

def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.jsonl: no such file'): check_file(tmp_path/'nothing.jsonl')
    with pytest.raises(IsADirectoryError, match='is a folder'): check_file(tmp_path)
    with pytest.raises(FileNotFoundError, match='no such folder'): check(tmp_path, fine, fix=tmp_path/'nowhere'/'clean.jsonl')
    with pytest.raises(IsADirectoryError, match='is a folder'): check(tmp_path, fine, fix=tmp_path)
    for n in (0, 10**20):
        with pytest.raises(ValueError, match=f'max_bytes is {n}'): check(tmp_path, fine, max_bytes=n)

@pytest.mark.skipif(sys.platform == 'win32', reason='no umask')
def test_outputs_have_ordinary_permissions(tmp_path):
    check(tmp_path, fine, fix=tmp_path/'clean.jsonl')
    assert (tmp_path/'clean.jsonl').stat().st_mode == (tmp_path/'data.jsonl').stat().st_mode

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes')
def test_a_pipe_can_be_checked(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    writer = threading.Thread(target=lambda: (tmp_path/'pipe').write_text(fine + '\n' + row(user)), daemon=True)
    writer.start()
    report = check_file(tmp_path/'pipe', fix=tmp_path/'clean.jsonl')
    assert (report.kept, report.rejected) == (1, 1)

def test_the_report_is_bounded(tmp_path):
    report = check(tmp_path, (row(user) + '\n')*1000)
    assert report.counts['last_not_assistant'] == 1000 and len(report.examples['last_not_assistant']) == 5
    assert '1, 2, 3, 4, 5, …' in str(report)

# The command line

def test_command_line(tmp_path, capsys):
    data = tmp_path/'data.jsonl'
    data.write_text(fine + '\n')
    assert main(['check', str(data)]) == 0 and 'no problems' in capsys.readouterr().out
    data.write_text(fine + '\n' + row(user) + '\n')
    assert main(['check', str(data), '--fix', str(tmp_path/'clean.jsonl')]) == 1
    assert 'last_not_assistant' in capsys.readouterr().out
    assert main(['check', str(data), '--json']) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report['rows'], report['kept'], report['rejected']) == (2, 1, 1)
    assert report['problems'][0]['examples'] == [dict(line=2, message='the last message is user')]
    assert main(['check', str(tmp_path/'nothing.jsonl')]) == 2 and 'no such file' in capsys.readouterr().err
    assert main(['check', str(data), '--fix', str(data)]) == 2 and 'would overwrite the input' in capsys.readouterr().err

def test_it_starts_within_a_second_and_imports_nothing_heavy(tmp_path):
    data = tmp_path/'data.jsonl'
    data.write_text(fine)
    code = ("import sys; from ftcook.cli import main; main(['check', sys.argv[1]]); "
            "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'numpy', 'spacy', 'presidio_analyzer', 'matplotlib'}; "
            "loaded = heavy & set(sys.modules); assert not loaded, loaded")
    def seconds(): # on a busy machine the wall clock says little
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, '-c', code, data], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return min(time.perf_counter() - wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert any(seconds() < 1 for _ in range(5))

# Speed and memory

@pytest.mark.parametrize('arguments', [['--megabytes', '60'], ['--megabytes', '20', '--broken', '--fix']])
def test_speed_and_memory(arguments):
    def measure():
        run = subprocess.run([sys.executable, here/'benchmark_check.py', *arguments], capture_output=True, check=True)
        return json.loads(run.stdout)
    for _ in range(5): # another process may take the core
        result = measure()
        assert result['peak_mib'] < 150
        if max(result['megabytes_per_s'], result['megabytes_per_cpu_s']) >= 30: return
    pytest.fail(f'too slow: {result}')
