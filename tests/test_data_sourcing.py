"Lessons 01h to 01j: rows from an API, repaired text, agreement, and an audit by group."
import json
import pytest
from ftcook.data.audit import group_gap, safe_harbor, uncovered
from ftcook.data.labels import cohen_kappa, krippendorff_alpha
from ftcook.data.sourcing import fetch_pages, repair, sourced_rows

class Api:
    "Three pages of two rows; breaks down before answering request number `down`."
    def __init__(self, down=99, **changed): self.asked, self.down, self.changed = [], down, changed
    def request(self, method, url):
        self.asked.append(url)
        if len(self.asked) >= self.down: raise OSError('down')
        i = int(url.partition('?after=')[2] or 0)
        body = dict(items=[dict(id=i), dict(id=i+1, licence='MIT')], next=f'/rows?after={i+2}' if i < 4 else None)
        return Answer(200, body | self.changed)

class Answer:
    def __init__(self, status, body): self.status, self.body = status, body
    def json(self): return self.body

start = 'http://api.test/rows'

def test_pages_are_fetched_once_and_a_second_call_goes_on(tmp_path):
    broken, whole = Api(down=3), Api()
    with pytest.raises(OSError): fetch_pages(broken, start, tmp_path/'rows', 'CC0-1.0')
    files = fetch_pages(whole, start, tmp_path/'rows', 'CC0-1.0')
    assert broken.asked[:2] == [start, f'{start}?after=2'] and whole.asked == [f'{start}?after=4']
    rows = sourced_rows(files)
    assert [r['id'] for r in rows] == list(range(6))
    assert [r['source']['licence'] for r in rows[:2]] == ['CC0-1.0', 'MIT'] and rows[5]['source']['url'] == f'{start}?after=4'
    assert fetch_pages(again := Api(), start, tmp_path/'rows', 'CC0-1.0') == files and again.asked == []

@pytest.mark.parametrize('changed, why', [(dict(next='http://evil.test/rows'), 'another machine'),
    (dict(next='//evil.test/rows'), 'another machine'), (dict(items='none'), "no list 'items'")])
def test_an_answer_that_leads_astray_is_refused(tmp_path, changed, why):
    with pytest.raises(ValueError, match=why): fetch_pages(api := Api(**changed), start, tmp_path/'rows', 'MIT')
    assert len(api.asked) == 1

def test_repair_changes_what_is_broken_and_nothing_else():
    whole = ['naïve café, 40 €', 'x < 5', 'write &lt;b&gt;', 'ＡＢ，全角', '👩\u200d🔬', 'क्\u200dष', 'a\n  b', '“quoted”', '']
    assert [repair(t) for t in whole] == whole
    broken = [t.encode().decode('cp1252') for t in ('Malmö', 'don’t', '40 €')] + ['e\u0301', 'in\xadvoice', '40\xa0€', '\ufeffHi']
    assert [repair(t) for t in broken] == ['Malmö', 'don’t', '40 €', 'é', 'invoice', '40 €', 'Hi']
    assert repair('“a” ‘b’', straight_quotes=True) == '"a" \'b\''

def test_agreement_is_that_of_the_books():
    "Kappa's usual example of two readers; Krippendorff's of four observers with gaps."
    a, b = ['yes']*25 + ['no']*25, ['yes']*20 + ['no']*5 + ['yes']*10 + ['no']*15
    assert cohen_kappa(a, b) == pytest.approx(.4) and cohen_kappa(a, a) == 1 == cohen_kappa(['x'], ['x'])
    observers = '123321412...', '1233224125.3', '.3332342251.', '12332441251.'
    units = [[None if m == '.' else m for m in unit] for unit in zip(*observers)]
    assert krippendorff_alpha(units) == pytest.approx(.743, abs=.0005) and krippendorff_alpha([['x', 'x']]) == 1
    with pytest.raises(ValueError): cohen_kappa(['x'], ['x', 'y'])

def test_a_gap_is_told_from_chance():
    even = dict(a=[1., 2, 3, 4]*5, b=[2., 1, 4, 3]*5)
    planted = even | dict(c=[3., 4, 5, 6]*5)
    found = group_gap(planted)
    assert group_gap(even)['p'] > .5 and found['p'] < .01 and found == group_gap(planted)
    assert (found['gap'], found['highest'], found['lowest']) == (2, 'c', 'a')

def test_hipaas_eighteen():
    assert len(safe_harbor) == 18 and uncovered(tuple(safe_harbor.values()) + (None,)) == []
    assert 'names' in uncovered(()) and 'names' not in uncovered(('PERSON',)) and len(uncovered(())) == 18

def test_a_page_on_disk_is_json_with_its_address(tmp_path):
    file, *_ = fetch_pages(Api(), start, tmp_path/'rows', 'MIT')
    assert set(json.loads(file.read_text())) == {'url', 'items', 'next', 'fetched', 'licence'}
