"The website, in a browser: every page, as a reader on a desktop or a phone sees it, in light and in dark."
import functools, http.server, os, shutil, subprocess, sys, threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
DESKTOP, PHONE = dict(width=1440, height=900), dict(width=390, height=844)
LOOK = (Path(__file__).parent/'look.js').read_text() # notices things from inside a page

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The built site: its folder, its address and its pages."
    out = tmp_path_factory.mktemp('site')/'_site'
    build = 'import sys; from ftcook.publish import site; site(sys.argv[1])'
    done = subprocess.run([sys.executable, '-c', build, out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(out)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = sorted(p.relative_to(out).as_posix() for p in out.rglob('*.html'))
    yield out, f'http://127.0.0.1:{server.server_port}/', pages
    server.shutdown()

@pytest.fixture(scope='module')
def chromium():
    path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if path is None:
        remedy = 'no Chromium to open the site in; install it (Debian: apt-get install chromium) or put google-chrome on the path'
        (pytest.fail if os.environ.get('CI') else pytest.skip)(remedy)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'])
        yield browser
        browser.close()

ASPECTS = dict(dark='dark faint faintFigures'.split(), phone='overflow small wrapped'.split()) # light: all

@pytest.fixture(scope='module')
def seen(chromium, site):
    "What there is to notice on every page, loaded once, in each view: view -> page -> aspect -> list."
    _, home, pages = site
    context = chromium.new_context(reduced_motion='reduce', viewport=DESKTOP, color_scheme='light')
    context.add_init_script(LOOK)
    page, errors, seen = context.new_page(), [], dict(light={}, dark={}, phone={})
    def guard(route):
        if route.request.url.startswith((home, 'data:')): return route.continue_()
        errors.append(f'asks another host: {route.request.url}')
        route.abort()
    context.route('**/*', guard)
    page.on('console', lambda m: m.type == 'error' and errors.append(f'console: {m.text}'))
    page.on('pageerror', lambda e: errors.append(f'script: {e}'))
    page.on('requestfailed', lambda r: errors.append(f'failed: {r.url}'))
    page.on('response', lambda r: r.status >= 400 and errors.append(f'{r.status}: {r.url}'))
    for name in pages:
        errors.clear()
        page.goto(home + name, wait_until='load')
        page.wait_for_timeout(80) # the theme marks light or dark 50 ms after loading
        seen['light'][name] = page.evaluate('look.at()')
        page.emulate_media(color_scheme='dark')
        page.wait_for_function('look.isDark() && document.documentElement.matches(".quarto-dark")', polling=50)
        seen['dark'][name] = page.evaluate('names => look.at(names)', ASPECTS['dark'])
        page.emulate_media(color_scheme='light')
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(80)
        seen['phone'][name] = page.evaluate('names => look.at(names)', ASPECTS['phone'])
        page.set_viewport_size(DESKTOP)
        seen['light'][name]['errors'] = list(errors)
    context.close()
    return seen

def report(seen, *aspects):
    "One line per thing noticed; empty if all is well."
    pages = [(view, name, page) for view,named in seen.items() for name,page in named.items()]
    return '\n'.join(f'{name}, {view}: {o}' for view,name,page in pages for a in aspects for o in page.get(a, ()))

def test_every_page_loads(seen):
    assert 'index.html' in seen['light'] and len(seen['light']) > 1
    assert not (found := report(seen, 'errors', 'brokenImages')), found
    assert all(page['characters'] > 100 for page in seen['light'].values())

def test_no_page_shows_a_traceback_or_a_warning(seen):
    assert not (found := report(dict(light=seen['light']), 'noise')), found

def test_every_link_leads_somewhere(seen, site):
    out, home, _ = site
    wrong = []
    for name,page in seen['light'].items():
        for href in page['links']:
            url, anchor = urldefrag(urljoin(home + name, href))
            if not url.startswith(home): continue
            target = unquote(url.removeprefix(home)) or 'index.html'
            if not (out/target).is_file(): wrong.append(f'{name}: no such page: {href}')
            there = seen['light'].get(target, {}).get('ids', ())
            if (out/target).is_file() and anchor and unquote(anchor) not in there: wrong.append(f'{name}: no such anchor: {href}')
    assert not wrong, '\n'.join(wrong)

def test_the_sidebar_is_in_reading_order(chromium, site):
    out, home, pages = site
    folder = ROOT/'nbs'
    lessons, solutions = (sorted(p.stem.split('_', 1)[1] for p in d.glob('[0-9]*.ipynb')) for d in (folder, folder/'solutions'))
    numbered = {p.stem.split('_', 1)[1]: p.stem for d in (folder, folder/'solutions') for p in d.glob('[0-9]*.ipynb')}
    order = lambda names, prefix='': [f'{prefix}{n}.html' for n in sorted(names, key=numbered.get)]
    reference = sorted(f'{p.stem}.html' for p in folder.glob('[a-z]*.ipynb') if p.stem != 'index')
    expected = ['index.html', *order(lessons), *order(solutions, 'solutions/'), *reference]
    assert sorted(pages) == sorted([*expected, '404.html'])
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home)
    shown = page.evaluate('[...document.querySelectorAll("#quarto-sidebar a[href]")].map(a => a.href)')
    assert shown == [home + p for p in expected]
    page.close()

def test_figures_have_a_text_and_a_caption(seen):
    assert not (found := report(dict(light=seen['light']), 'unlabelled')), found

def test_text_in_figures_stands_out_in_light_and_dark(seen):
    assert not (found := report(seen, 'faintFigures')), found

def test_no_line_of_code_is_wrapped(seen):
    assert not (found := report(seen, 'wrapped')), found

def test_commands_are_not_typeset(seen):
    assert not (found := report(dict(light=seen['light']), 'typeset')), found

def test_no_page_is_longer_than_25_screens(seen):
    lengths = sorted(((page['screens'], name) for name,page in seen['light'].items()), reverse=True)
    print('', *(f'{n:5.1f} screens  {name}' for n,name in lengths), sep='\n')
    assert lengths[0][0] <= 25, lengths[:5]

def test_code_is_folded_and_what_only_a_run_needs_is_hidden(chromium, site):
    _, home, _ = site
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home + 'sft.html')
    assert page.locator('main details.code-fold').count() > 5 and page.locator('main details.code-fold[open]').count() == 0
    text = page.locator('main').inner_text()
    assert 'record(' not in text and 'profile = ""' not in text and 'import torch' not in text
    assert 'generate_batch(model, tokenizer, conversations' in text # its signature
    assert 'stop each answer after this many tokens' in text # what an argument is
    page.close()

def test_a_lesson_says_which_it_is_and_what_is_around_it(chromium, site):
    _, home, _ = site
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home + 'sft.html')
    assert page.locator('h1').inner_text().startswith('04 ')
    assert 'I Train one task' in page.locator('#title-block-header .breadcrumb').inner_text()
    assert [a.strip()[:2] for a in page.locator('.page-navigation a').all_inner_texts()] == ['03', '05']
    assert page.locator('.page-tools a').first.get_attribute('href').endswith('/ftcook/ftcook/blob/main/nbs/04_sft.ipynb')
    report = page.locator('.toc-action[href*=issues]').first.get_attribute('href')
    assert report.endswith('?template=wrong.yml&where=04%20Supervised%20fine-tuning')
    page.goto(home + 'solutions/sft.html')
    assert page.locator('h1').inner_text() == '04 Supervised fine-tuning: solutions'
    page.close()

def test_the_notebooks_can_be_fetched(site):
    out, _, _ = site
    for path in [*(ROOT/'nbs').glob('[0-9]*.ipynb'), *(ROOT/'nbs'/'solutions').glob('[0-9]*.ipynb')]:
        assert (out/'notebooks'/path.relative_to(ROOT/'nbs')).read_bytes() == path.read_bytes(), path.name

def test_every_page_describes_itself(site):
    import re
    out, _, pages = site
    for name in pages:
        text = (out/name).read_text()
        for tag in ('name="description"', 'property="og:title"', 'property="og:description"'):
            assert re.search(rf'<meta (?=[^>]*{tag})[^>]*content="[^"]+"', text), (name, tag)

def test_the_first_tab_leads_past_the_lists(chromium, site):
    _, home, _ = site
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home + 'sft.html')
    assert page.locator('.skip-link').bounding_box()['y'] < 0
    page.keyboard.press('Tab')
    page.wait_for_function('document.activeElement.className === "skip-link"')
    assert page.locator('.skip-link').bounding_box()['y'] >= 0
    page.keyboard.press('Enter')
    page.wait_for_function('document.activeElement.tagName === "MAIN"')
    page.close()

def test_a_phone_has_the_contents_of_the_page(chromium, site):
    _, home, _ = site
    for view,shown in ((PHONE, True), (DESKTOP, False)):
        page = chromium.new_page(viewport=view)
        page.goto(home + 'sft.html')
        contents = page.locator('details.contents')
        assert contents.is_visible() == shown
        if shown:
            entry = contents.locator('a').last
            assert not entry.is_visible()
            contents.locator('summary').click()
            entry.click()
            page.wait_for_url('**/sft.html' + entry.get_attribute('href'))
        page.close()

def test_a_copied_command_is_the_command(chromium, site):
    _, home, _ = site
    context = chromium.new_context(viewport=DESKTOP)
    context.grant_permissions(['clipboard-read', 'clipboard-write'], origin=home.rstrip('/'))
    page = context.new_page()
    page.goto(home)
    block = page.locator('.code-copy-outer-scaffold', has_text='--no-build-isolation')
    block.hover()
    block.locator('.code-copy-button').click()
    page.wait_for_timeout(100)
    assert 'pip install --no-build-isolation -e ".[flash]"' in page.evaluate('navigator.clipboard.readText()')
    context.close()

def found_by(page, words):
    "Where the search leads, in order."
    page.get_by_placeholder('Search').first.fill(words)
    page.wait_for_timeout(1000)
    return [a.get_attribute('href') for a in page.locator('.search-result').all()]

def test_search_puts_prose_before_code_and_solutions_last(chromium, site):
    import json
    out, home, _ = site
    ranks = {}
    for entry in json.loads((out/'search.json').read_text()): ranks.setdefault(entry['href'], []).append(entry['rank'])
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home)
    for words in ('perplexity', 'checkpoint', 'learning rate', 'load_model'):
        hrefs = [h.removeprefix('./') for h in found_by(page, words)]
        solved = [h.startswith('solutions/') for h in hrefs]
        assert len(hrefs) > 3 and solved == sorted(solved) and not solved[0], (words, hrefs)
        assert 0 in ranks[hrefs[0]], (words, hrefs)
    assert found_by(page, 'load_model')[0].endswith('quantization.html#load_model')
    page.close()

def test_search_finds_a_word(chromium, site):
    _, home, _ = site
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home)
    page.get_by_placeholder('Search').first.press_sequentially('bandwidth')
    first = page.locator('.search-result').first
    first.wait_for()
    assert 'bandwidth' in first.inner_text().lower()
    target = urljoin(home, first.get_attribute('href'))
    page.keyboard.press('Enter')
    page.wait_for_url(target)
    assert 'bandwidth' in page.locator('main').inner_text().lower()
    page.close()

def test_every_page_is_readable_on_a_phone(seen):
    assert not (found := report(dict(phone=seen['phone']), 'overflow', 'small')), found

def test_a_wide_formula_scrolls_in_its_own_box(chromium, site):
    "Whatever fonts there are: here in letters three times as wide."
    _, home, pages = site
    page = chromium.new_page(viewport=PHONE)
    page.add_init_script(LOOK)
    page.goto(home + 'solutions/lora.html')
    page.add_style_tag(content='main math { font-size: 3rem }')
    assert page.evaluate('[...document.querySelectorAll("main math")].some(m => m.scrollWidth > m.clientWidth)')
    assert page.evaluate('look.at(["overflow"]).overflow') == []
    page.close()

def test_faults_on_a_page_are_noticed(chromium, site):
    "Each kind of fault, planted on a page of the site."
    _, home, _ = site
    page = chromium.new_page(viewport=PHONE)
    page.add_init_script(LOOK)
    page.goto(home)
    kinds = ('brokenImages', 'noise', 'overflow', 'small', 'faint', 'unlabelled', 'faintFigures', 'wrapped', 'typeset')
    def noticed():
        found = page.evaluate('look.at()')
        return {k for k in kinds if found[k]}
    assert noticed() == set()
    planted = dict(
        brokenImages='<img src="data:image/png;base64,AAAA" alt="gone">',
        overflow='<div style="width: 900px">wide</div>',
        small='<p style="font-size: 6px">small</p>',
        faint='<p style="color: #eee; background: #fff">faint</p>',
        noise='<div class="cell-output-stderr"><pre>A warning</pre></div>',
        unlabelled='<figure><svg class="themed" role="img" aria-label=""></svg><figcaption>A loaf</figcaption></figure>',
        faintFigures='<svg class="themed" width="90" height="20"><text y="15" style="fill: #bbb">faint</text></svg>',
        wrapped=f'<pre class="sourceCode"><code style="white-space: pre-wrap">{"long "*99}</code></pre>',
        typeset='<p><code>pip install \u2013no-deps loaf</code></p>')
    for kind,html in planted.items():
        page.evaluate('html => document.querySelector("main").insertAdjacentHTML("beforeend", html)', html)
        page.wait_for_timeout(50)
        assert kind in noticed(), kind
    page.close()

def test_the_sidebar_opens_on_a_phone(chromium, site):
    _, home, _ = site
    page = chromium.new_page(viewport=PHONE)
    page.goto(home)
    lesson = page.locator('#quarto-sidebar a[href$="setup.html"]').first
    assert not page.evaluate('a => a.getBoundingClientRect().left >= 0', lesson.element_handle())
    page.locator('.quarto-secondary-nav .quarto-btn-toggle').first.click()
    lesson.click()
    page.wait_for_url(home + 'setup.html')
    page.close()

def test_text_stands_out_from_its_background_in_light_and_dark(seen):
    assert {p['dark'] for p in seen['light'].values()} == {False} and {p['dark'] for p in seen['dark'].values()} == {True}
    assert not (found := report(seen, 'faint')), found

def test_the_theme_can_be_switched(chromium, site):
    _, home, _ = site
    page = chromium.new_page(viewport=DESKTOP, color_scheme='light')
    page.add_init_script(LOOK)
    page.goto(home)
    is_dark = 'look.isDark()'
    assert not page.evaluate(is_dark)
    page.locator('.quarto-color-scheme-toggle').first.click()
    page.wait_for_function(is_dark)
    page.reload()
    assert page.evaluate(is_dark) and page.evaluate('look.isDark("#quarto-search input")')
    page.close()
