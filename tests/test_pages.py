"What every page shows: from the notebooks as they are, without a browser."
import ast, re
import pytest
from fastcore.nbio import mk_cell, read_nb
from ftcook.pages import aligned, caption, card, figures, folded, kind, lines_of, search_index, themed
from ftcook.publish import page_title
from conftest import root

nbs = root/'nbs'
pages = [p for folder in ('.', 'solutions') for p in sorted((nbs/folder).glob('*.ipynb')) if p.name[0] not in '._']
lessons = [p for p in pages if p.name[0].isdigit() and p.parent == nbs]

@pytest.mark.parametrize('path', pages, ids=lambda p: f'{p.parent.name}-{p.stem}')
def test_every_figure_gets_a_text_and_a_caption(path, tmp_path):
    number, prose, heading = 0, '', ''
    for cell in read_nb(path).cells:
        if cell.cell_type == 'markdown':
            prose, heading = cell.source, (re.findall(r'^#+ (.*)', cell.source, re.M) or [heading])[-1]
            continue
        before = number
        number = figures(cell, (heading, prose), path.stem, number, tmp_path) if cell.cell_type == 'code' else number
        made = [''.join(o.get('data', {}).get('text/markdown', '')) for o in cell.get('outputs', [])]
        for text in [o for o in made if 'Figure ' in o][:number - before]:
            told, alt = re.search(r'Figure \d+\. (.*?)[\]\n]', text), re.search(r'(?:fig-alt|aria-label)="(.*?)"', text, re.S)
            assert len(told[1]) > 8 and len(alt[1]) > 8, (cell.id, text[:300])
    assert len(list(tmp_path.iterdir())) <= number

@pytest.mark.parametrize('path', lessons, ids=lambda p: p.stem)
def test_what_only_a_run_needs_is_hidden(path):
    cells = folded([c for c in read_nb(path).cells if not re.match(r'#\| *(hide|default_exp)', c.source)]) # nbdev drops those
    shown = [c for c in cells if c.cell_type == 'code' and 'code-fold' not in c.source]
    assert not any(c.source.startswith('profile = ') for c in cells)
    for cell in shown:
        assert not re.search(r'^record\(', cell.source, re.M), cell.source
        assert not re.search(r'^#\| *export', cell.source, re.M), cell.source
    first = next(i for i,c in enumerate(cells) if c.cell_type == 'markdown' and c.source.startswith('## '))
    assert [lines_of(c) for c in cells[:first] if c in shown and kind(c) == 'setup'] == []

def test_code_is_kept_when_it_is_folded():
    for path in lessons:
        before, after = ('\n'.join('\n'.join(lines_of(c)) for c in cells if c.cell_type == 'code' and kind(c) != 'hidden')
            for cells in (read_nb(path).cells, folded(read_nb(path).cells)))
        assert sorted(l for l in before.splitlines() if l) == sorted(l for l in after.splitlines() if l), path.stem

def test_a_card_has_each_argument_that_the_source_explains():
    source = (root/'ftcook'/'sft.py').read_text()
    node = next(o for o in ast.parse(source).body if getattr(o, 'name', '') == 'generate_batch')
    text = card(node, source)
    assert 'Answers to many conversations' in text and '| `max_new_tokens: int = 72` | stop each answer' in text
    assert re.search(r'^\| \*returns\* `list` \| one string per conversation \|$', text, re.M)

def test_a_class_shows_what_makes_it():
    source = 'class Oven:\n    "Hot."\n    def __init__(self,\n        heat:int=220, # degrees\n    ): pass\n'
    assert '| `heat: int = 220` | degrees |' in card(ast.parse(source).body[0], source)
    fields = '@dataclass\nclass Loaf:\n    "Bread."\n    grams: int # its weight\n'
    assert '| `grams: int` | its weight |' in card(ast.parse(fields).body[0], fields)

@pytest.mark.parametrize('cells,right', [
    (['1', '2.5 GiB', '–'], True), (['0.89 (0.80 to 0.94)'], True), (['1.6e-07', '1,000'], True), (['**12**', '−3 %'], True),
    (['H100', 'H200'], False), (['2 CPU cores'], False), (['', '–'], False), (['[00 Setup](00_setup.ipynb)'], False)])
def test_numbers_stand_to_the_right(cells, right):
    table = '\n'.join(['| head |', '| --- |', *(f'| {c} |' for c in cells)])
    assert aligned(table).splitlines()[1].endswith(': |') == right
    assert aligned(table).splitlines()[::2] == table.splitlines()[::2]

def test_drawings_do_not_share_ids_and_follow_the_theme():
    used = '<use xlink:href="#a" style="fill: #808080; stroke: #0072b2; clip-path: url(#a)"/>'
    svg = f'<svg><defs><path id="a"/></defs>{used}</svg>'
    one, two = (themed(svg, name, 'Loaves & "bread"') for name in ('p-1', 'p-2'))
    assert 'id="p-1-a"' in one and '#p-1-a"' in one and 'url(#p-1-a)' in one and 'p-1' not in two
    assert 'currentColor' in one and 'var(--figure-0' in one and '808080' not in one
    assert 'aria-label="Loaves &amp; &quot;bread&quot;"' in one

def test_a_caption_is_the_authors_if_there_is_one(tmp_path):
    cell = mk_cell('#| fig-cap: Two loaves.\n#| fig-alt: A large and a small loaf\nplot()')
    cell.outputs = [dict(data={'image/svg+xml': '<svg></svg>'}, metadata={})]
    assert figures(cell, ('Bread', 'Each bar is a loaf.'), 'p', 2, tmp_path) == 3
    assert 'Figure 3. Two loaves.' in cell.outputs[0]['data']['text/markdown'] and 'A large and a small loaf' in str(cell.outputs)
    assert caption('', 'plot()', 'Prove it: bread') == 'Bread.'

def test_search_ranks_lessons_then_reference_then_code_then_solutions():
    html = '<main><h1 class="title">T</h1><p>Dough.</p><pre>dough()</pre><div class="cell-output"><pre>12</pre></div></main>'
    found = search_index({n: html for n in ('solutions/a.html', 'z.html', 'a.html')}, {'a.html'})
    wanted = [('a.html', 0), ('z.html', 1), ('a.html', 2), ('solutions/a.html', 3), ('z.html', 3)]
    assert [(o['href'], o['rank']) for o in found] == wanted
    assert '12' not in str(found)

def test_titles_have_the_number_of_their_lesson():
    assert page_title(nbs/'04_sft.ipynb') == '04 Supervised fine-tuning'
    assert page_title(nbs/'solutions'/'04_sft.ipynb') == '04 Supervised fine-tuning: solutions'
    assert all(page_title(p).endswith(': solutions') for p in pages if p.parent.name == 'solutions')
