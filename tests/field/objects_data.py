"Python objects that people hand to the doctor: rows, data sets, and functions that make them."
import json, tempfile
from functools import partial
from pathlib import Path

here = Path(__file__).parent/'cases'

def rows(case):
    "The rows of a case, as a program would read them."
    return [json.loads(line) for line in (here/case/'data.jsonl').read_text(encoding='utf-8').splitlines()]

def b01t():
    "Rows with tool calls, and a template that adds up contents."
    from ftcook.doctor.cases_base import given
    from ftcook.doctor.toy import toy_tokenizer
    template = "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] }}{% endfor %}"
    return given(rows('b01'), tokenizer=toy_tokenizer(chat_template=template))

b24r, b04r = partial(rows, 'b23'), partial(rows, 'b04')

itemizing = """{% for m in messages %}{{ '<' + m['role'] + '>' }}{% for call in m['tool_calls'] or [] %}
{% for name, value in call['function']['arguments'] | items %}{{ name }} {{ value }}{% endfor %}{% endfor %}
{{ m['content'] or '' }}{% endfor %}"""

def templated(rows):
    "Rows with a tokenizer whose template goes through the arguments of calls."
    from ftcook.doctor.cases_base import given
    from ftcook.doctor.toy import toy_tokenizer
    return given(rows, tokenizer=toy_tokenizer(chat_template=itemizing))

def b76(): return templated(rows('b01'))
def b77(): return templated(rows('h76'))

def splits(**parts):
    "A DatasetDict."
    from datasets import Dataset, DatasetDict
    return DatasetDict({name: Dataset.from_list(part) for name,part in parts.items()})

def b78(): return splits(train=rows('h76')[:10], test=rows('h76')[10:])
def b79(): return splits(test=rows('h76')[:4], train=rows('h76'))

large = tempfile.TemporaryDirectory() # until the end of the process

def b15():
    "A file with one line of 50 MB."
    file = Path(large.name)/'data.jsonl'
    turns = [dict(role='user', content='a'*50_000_000), dict(role='assistant', content='b')]
    file.write_text(json.dumps(dict(messages=turns)) + '\n')
    return file
