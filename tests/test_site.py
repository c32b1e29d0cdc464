"The website, in a browser: every page, as a reader on a desktop or a phone sees it, in light and in dark."
import functools, http.server, os, shutil, subprocess, sys, threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
DESKTOP, PHONE = dict(width=1280, height=900), dict(width=390, height=844)
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

@pytest.fixture(scope='module')
def seen(chromium, site):
    "What there is to notice on every page in each view: view -> page -> aspect -> list."
    _, home, pages = site
    views = dict(light=dict(viewport=DESKTOP, color_scheme='light'), dark=dict(viewport=DESKTOP, color_scheme='dark'),
        phone=dict(viewport=PHONE, color_scheme='light'))
    return {view: look_at(chromium, home, pages, **options) for view,options in views.items()}

def look_at(chromium, home, pages, **options):
    context = chromium.new_context(reduced_motion='reduce', **options)
    context.add_init_script(LOOK)
    seen = {}
    def guard(route):
        if route.request.url.startswith((home, 'data:')): return route.continue_()
        errors.append(f'asks another host: {route.request.url}')
        route.abort()
    context.route('**/*', guard)
    for name in pages:
        errors, page = [], context.new_page()
        note = errors.append
        page.on('console', lambda m, note=note: m.type == 'error' and note(f'console: {m.text}'))
        page.on('pageerror', lambda e, note=note: note(f'script: {e}'))
        page.on('requestfailed', lambda r, note=note: note(f'failed: {r.url}'))
        page.on('response', lambda r, note=note: r.status >= 400 and note(f'{r.status}: {r.url}'))
        page.goto(home + name, wait_until='load')
        page.wait_for_timeout(80) # the theme marks light or dark 50 ms after loading
        seen[name] = dict(page.evaluate('look.everything()'), errors=errors)
        page.close()
    context.close()
    return seen

def report(seen, *aspects):
    "One line per thing noticed; empty if all is well."
    pages = [(view, name, page) for view,named in seen.items() for name,page in named.items()]
    return '\n'.join(f'{name}, {view}: {o}' for view,name,page in pages for a in aspects for o in page[a])

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
    appendix = sorted(f'{p.stem}.html' for p in folder.glob('[a-z]*.ipynb') if p.stem != 'index')
    expected = ['index.html', *order(lessons), *order(solutions, 'solutions/'), *appendix]
    assert sorted(pages) == sorted(expected)
    page = chromium.new_page(viewport=DESKTOP)
    page.goto(home)
    shown = page.evaluate('[...document.querySelectorAll("#quarto-sidebar a[href]")].map(a => a.href)')
    assert shown == [home + p for p in expected]
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
    assert page.evaluate('look.everything().overflow') == []
    page.close()

def test_faults_on_a_page_are_noticed(chromium, site):
    "Each kind of fault, planted on a page of the site."
    _, home, _ = site
    page = chromium.new_page(viewport=PHONE)
    page.add_init_script(LOOK)
    page.goto(home)
    kinds = ('brokenImages', 'noise', 'overflow', 'small', 'faint')
    def noticed():
        found = page.evaluate('look.everything()')
        return {k for k in kinds if found[k]}
    assert noticed() == set()
    planted = dict(
        brokenImages='<img src="data:image/png;base64,AAAA" alt="gone">',
        overflow='<div style="width: 900px">wide</div>',
        small='<p style="font-size: 6px">small</p>',
        faint='<p style="color: #eee; background: #fff">faint</p>',
        noise='<div class="cell-output-stderr"><pre>A warning</pre></div>')
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
    assert page.evaluate(is_dark)
    page.close()
