"Python objects that people hand to the doctor: rows, data sets, and functions that make them."
import json
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
