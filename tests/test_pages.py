"What every page shows: from the notebooks as they are, without a browser."
import ast, re
from fastcore.nbio import mk_cell, read_nb
from ftcook.pages import aligned, card, figures, folded, kind, lines_of, search_index, themed
from ftcook.publish import page_title
from conftest import root

nbs = root/'nbs'
pages = [p for folder in ('.', 'solutions') for p in sorted((nbs/folder).glob('*.ipynb')) if p.name[0] not in '._']
lessons = [p for p in pages if p.name[0].isdigit() and p.parent == nbs]

def test_what_only_a_run_needs_is_hidden():
    for path in lessons:
        cells = folded([c for c in read_nb(path).cells if not re.match(r'#\| *(hide|default_exp)', c.source)]) # nbdev drops those
        shown = [c for c in cells if c.cell_type == 'code' and 'code-fold' not in c.source]
        assert not any(c.source.startswith('profile = ') for c in cells), path.stem
        for cell in shown: assert not re.search(r'^record\(|^#\| *export', cell.source, re.M), (path.stem, cell.source)
        first = next(i for i,c in enumerate(cells) if c.cell_type == 'markdown' and c.source.startswith('## '))
        assert [lines_of(c) for c in cells[:first] if c in shown and kind(c) == 'setup'] == [], path.stem

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

def test_numbers_stand_to_the_right():
    def right(*cells):
        table = '\n'.join(['| head |', '| --- |', *(f'| {c} |' for c in cells)])
        assert aligned(table).splitlines()[::2] == table.splitlines()[::2]
        return aligned(table).splitlines()[1].endswith(': |')
    assert right('1', '2.5 GiB', '–') and right('0.89 (0.80 to 0.94)') and right('1.6e-07', '1,000') and right('**12**', '−3 %')
    assert not any([right('H100', 'H200'), right('2 CPU cores'), right('', '–'), right('[00 Setup](00_setup.ipynb)')])

def test_drawings_do_not_share_ids_and_follow_the_theme():
    used = '<use xlink:href="#a" style="fill: #808080; stroke: #0072b2; clip-path: url(#a)"/>'
    svg = f'<svg><defs><path id="a"/></defs>{used}<text style="fill: #b0b0b0">faint</text></svg>'
    one, two = (themed(svg, name, 'Loaves & "bread"') for name in ('11b-1', '11b-2'))
    assert 'id="11b-1-a"' in one and '"#11b-1-a"' in one and 'url(#11b-1-a)' in one and '11b-1' not in two
    assert '<text style="fill: var(--figure-6, #b0b0b0)">' in one
    assert 'currentColor' in one and 'var(--figure-0' in one and '808080' not in one
    assert 'aria-label="Loaves &amp; &quot;bread&quot;"' in one

def test_a_caption_is_the_authors_if_there_is_one(tmp_path):
    cell = mk_cell('#| fig-cap: Two loaves.\n#| fig-alt: A large and a small loaf\nplot()')
    cell.outputs = [dict(data={'image/svg+xml': '<svg></svg>'}, metadata={})]
    assert figures(cell, 'Bread', 'p', 2, tmp_path) == 3
    assert 'Figure 3. Two loaves.' in cell.outputs[0]['data']['text/markdown'] and 'A large and a small loaf' in str(cell.outputs)
    plain = mk_cell('plot()')
    plain.outputs = [dict(data={'image/png': ''}, metadata={})]
    figures(plain, 'Bread', 'p', 3, tmp_path)
    assert plain.outputs[0]['data']['text/markdown'].startswith('![Figure 4. Bread](') # the heading, until its author says more

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
