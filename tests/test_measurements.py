"The tables of nbs/measurements: each has the columns that its README documents, and no row twice."
import csv, re
import pytest
from conftest import root

folder = root/'nbs'/'measurements'
paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob('*.csv')}
paths |= {p.relative_to(root).as_posix(): p for p in (root/'ftcook'/'assets').glob('*.csv') if p.name != 'cities.csv'}

def documented(text):
    "Sections of the README: name of a table -> its columns, its key, and which of versions and date it does without."
    found = {}
    for name,body in re.findall(r'^### `(.+?)`\n(.*?)(?=^### |\Z)', text, re.M | re.S):
        cells = [line.split('|')[1] for line in body.splitlines() if line.startswith('| `')]
        columns = [column for cell in cells for column in re.findall(r'`(\w+)`', cell)]
        sentence = re.search(r'Key: (.*?)\.(?:\s|$)', body)[1]
        key = re.findall(r'`(\w+)`', sentence)
        if 'every field of the run' in sentence: key += re.findall(r'`(\w+)`', next(c for c in cells if '`model`, `method`' in c))
        without = re.findall(r'`(\w+)`', ' '.join(re.findall(r'No (`.*?)[:.]', body)))
        found[name] = dict(columns=columns, key=key, without=without, months='the day or the month' in body)
    return found

def faults(name, rows, said):
    "What is wrong with a table, in words."
    columns = list(rows[0])
    found = [f'{name}: column {c} is not documented' for c in columns if c not in said['columns']]
    found += [f'{name}: no column {c}' for c in said['columns'] if c not in columns]
    found += [f'{name}: column {c} is documented twice' for c in set(said['columns']) if said['columns'].count(c) > 1]
    if missing := [k for k in said['key'] if k not in columns]: return found + [f'{name}: the key names {missing}']
    keys = [tuple(r[k] for k in said['key']) for r in rows]
    found += [f'{name}: two rows for {k}' for k in {k for k in keys if keys.count(k) > 1}]
    date = r'(20\d\d-\d\d(-\d\d)?)?' if said['months'] else r'20\d\d-\d\d-\d\d'
    for column,form in dict(versions=r'\S+-\d\S*( \S+-(\d\S*|None))*', date=date).items():
        if column in said['without']: found += [f'{name}: has {column} after all'] if column in columns else []
        else:
            values = [r.get(column) or '' for r in rows]
            found += [f'{name}, row {i}: {column} {v!r}' for i,v in enumerate(values, 2) if not re.fullmatch(form, v)]
    return found

said = documented((folder/'README.md').read_text())

def test_every_table_is_documented(): assert sorted(said) == sorted(paths)

@pytest.mark.parametrize('name', sorted(paths))
def test_a_table_is_what_the_readme_says(name):
    with paths[name].open(newline='') as f: rows = list(csv.DictReader(f))
    assert rows and said[name]['key']
    assert not (found := faults(name, rows, said[name])), '\n'.join(found)

def test_faults_are_seen():
    text = '### `a.csv`\n\nWhat. Key: `x`.\n\n| column | unit |\n|---|---|\n| `x`, `y` | | |\n| `versions`, `date` | |'
    said = documented(text)['a.csv']
    good = dict(x='1', y='2', versions='torch-2.1', date='2026-01-02')
    assert faults('a.csv', [good], said) == []
    assert faults('a.csv', [good, good | dict(y='3')], said) == ["a.csv: two rows for ('1',)"]
    assert faults('a.csv', [good | dict(z='1')], said) == ['a.csv: column z is not documented']
    assert faults('a.csv', [{k: v for k,v in good.items() if k != 'y'}], said) == ['a.csv: no column y']
    assert faults('a.csv', [good | dict(date='')], said) == ["a.csv, row 2: date ''"]
    assert faults('a.csv', [good | dict(versions='')], said) == ["a.csv, row 2: versions ''"]
