"""Text from files, names, metrics, logs and exceptions reaches a terminal or a page as text only."""
import io, json, os, re, subprocess, sys
from pathlib import Path
import pytest
from conftest import root
from ftcook.cli import _parser, main
from ftcook.limits import PrintableStream, fenced, html_safe, markdown_safe, printable

evil = '\x1b]0;yours\x07\x1b[2J\r\x08\x7f\x9b1m\u202etxt\u2066'
unsafe = re.compile('[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
name = '\x1b[2J\x07\r\u202e'  # may stand in a file's name

@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)

def write(path, content):
    with open(path, 'w', encoding='utf-8', errors='surrogatepass') as f: f.write(content)
    return path

def row(**message):
    return json.dumps(dict(messages=[dict(role='user', content='Hi'), dict(role='assistant', content='Hi') | message]))

def metrics(): return json.dumps(dict(name=f'm{evil}', metrics={f'a{evil}': dict(value=1, low=evil)}, about={evil: evil}))

said = dict(
    no_command=[f'no{evil}'], no_option=['check', 'a', f'--no{evil}'], no_number=['estimate', 'mistral-7b', '--tokens', evil],
    no_lesson=['course', evil], no_part=['course', '--part', evil], no_profile=['course', '--profile', evil],
    no_file=['check', f'no{evil}'], nothing=['doctor', f'no{evil}.py'], lone=['doctor', 'half\udc80.py'],
    check=['check', f'{name}.jsonl'], check_json=['check', f'{name}.jsonl', '--json'],
    fix=['check', f'{name}.jsonl', '--fix', f'fixed{name}'],
    data=['doctor', f'{name}.jsonl'], data_json=['doctor', f'{name}.jsonl', '--json'], script=['doctor', f'{name}.py'],
    script_json=['doctor', f'{name}.py', '--json'], log=['doctor', f'{name}.log'],
    run=['doctor', f'run{name}'], other=['doctor', f'x{name}'],
    gate=['gate', 'report.json', f'b{evil}>=1'], gate_names=['gate', 'report.json', 'b>=1'],
    gate_bad=['gate', f'{name}.jsonl', 'b>=1'])

def plant():
    write(f'{name}.jsonl', '\n'.join([row(role=evil), row(content=f'{evil} hf_{"a"*34}'), f'{{"{evil}": 1}}',
                                      json.dumps({evil: 1}), evil]))
    write(f'{name}.py', f'SFTConfig(**{{"a{evil[:2]}\\x1b[2J": 1, "\\ud800": 2, "b\\x9b": 3}})\n'
                       'tok.pad_token = tok.eos_token\nx = "\n')
    write(f'{name}.log', f'RuntimeError: CUDA out of memory {evil}\n'
                        f'TypeError: __init__() got an unexpected keyword argument \'{evil}\'\n')
    write(f'x{name}', '')
    write('report.json', metrics())
    run = Path(f'run{name}')
    run.mkdir()
    write(run/'trainer_state.json', f'{{"{evil}": ')
    write(run/'tokenizer_config.json', json.dumps(dict(eos_token=evil, chat_template='x')))

@pytest.mark.parametrize('case', said)
def test_no_command_prints_a_control_character(case, capsys):
    plant()
    code = 2
    try: code = main(said[case])
    except SystemExit as e: code = e.code
    out, err = capsys.readouterr()
    assert code in (1, 2) and out + err and not unsafe.findall(out + err)
    if '--json' in said[case]: json.loads(out)

def test_a_script_whose_names_are_hostile(capsys):
    write('a.py', 'SFTConfig(**{"a\\x1b[2J": 1, "\\ud800": 2, "b\\x9b": 3})\n')
    assert main(['doctor', 'a.py']) == 1
    out = capsys.readouterr().out
    assert r'SFTConfig does not take a\u001b[2J' in out and r'\ud800' in out and r'b\u009b' in out and not unsafe.search(out)

def test_what_nobody_foresaw(capsys, monkeypatch):
    "A traceback is shown, on the same path."
    def broken(*args, **kwargs): raise KeyError(f'lost {evil}\n')
    monkeypatch.setattr('ftcook.data.check_file', broken)
    assert main(['check', 'a']) == 2
    err = capsys.readouterr().err
    assert 'Traceback' in err and 'KeyError' in err and not unsafe.search(err)
    def interrupted(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('ftcook.data.check_file', interrupted)
    assert main(['check', 'a']) == 2 and capsys.readouterr().err == 'ftcook: interrupted\n'

def test_the_process_itself():
    "Nothing is printed past the stream, at the end of a process neither."
    write(f'{name}.log', f'RuntimeError: CUDA out of memory {evil}\n')
    env = os.environ | dict(PYTHONPATH=str(root))
    for args in (['doctor', f'{name}.log', f'no{name}'], ['course', f'no{name}'], [f'no{name}']):
        done = subprocess.run([sys.executable, '-m', 'ftcook.cli', *args], capture_output=True, env=env)
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 2 and text and not unsafe.findall(text)

def test_main_gives_the_streams_back(capsys):
    before = sys.stdout, sys.stderr
    main(['check', 'none'])
    assert (sys.stdout, sys.stderr) == before

# The functions

def test_every_control_character_is_shown():
    for i in [*range(0x100), *range(0x2020, 0x2070), *range(0xd800, 0xe000), 0x1f600]:
        shown = printable(chr(i))
        if unsafe.match(chr(i)): assert shown == f'\\u{i:04x}' and json.loads(f'"{shown}"') == chr(i)
        else: assert shown == chr(i)

def test_a_bar_may_return_to_the_start_of_its_line():
    def written(text, bars):
        out = io.StringIO()
        assert PrintableStream(out, bars).write(text) == len(text)
        return out.getvalue()
    assert written('\r 5%\x1b[2J\r', True) == '\r 5%\\u001b[2J\\u000d' and written('\r 5%', False) == '\\u000d 5%'
    for command,bars in dict(course=True, train=True, check=False, doctor=False, gate=False, estimate=False).items():
        args = _parser().parse_args([command, *dict(course=[], doctor=[], gate=['a', 'b']).get(command, ['a'])])
        assert args.bars is bars

def test_pages_show_text_as_text():
    from ftcook.data import Report
    from ftcook.data.mask import LossMask
    from ftcook.doctor import Diagnosis, Finding
    bad = f'<img src=x onerror=alert(1)> [a](javascript:b) `c` **d** | e {evil}'
    found = Diagnosis([Finding('frozen', 'likely', bad, dict(file=bad))], bad)
    mask = LossMask([[(bad, 'loss'), (bad, 'context')]])
    for page in (found._repr_html_(), mask._repr_html_()): assert '<img' not in page and not unsafe.search(page)
    report = Report(f'a/{bad.replace("/", "")}')
    for page in [report._repr_markdown_(), markdown_safe(bad)]:
        assert '\\<img' in page and '](javascript' not in page.replace('\\]', '') and not unsafe.search(page) and '\\|' in page
    assert not unsafe.search(html_safe(bad)) and not unsafe.search(fenced(bad))

def test_the_page_of_a_report_shows_text_as_text():
    from ftcook.evaluation import EvalReport
    bad = f'<b>x</b> | [a](b) `c` {evil}'
    page = EvalReport(bad, {bad: dict(value=1, low=bad)}, {bad: bad})._repr_markdown_()
    assert '<b>' not in page.replace('\\<', '') and not unsafe.search(page) and len(page.splitlines()) == 7

def test_text_cannot_leave_its_fence():
    for text in ('a', '```', '````\n<b>', 'x ````` y'):
        lines = fenced(text).splitlines()
        assert lines[0].removesuffix('text') == lines[-1] and lines[-1] not in text and text in fenced(text)
