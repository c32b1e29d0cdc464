"Splits, duplicates and data cards: what must hold for any rows."
import os, subprocess, sys
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from ftcook.data.clean import (clusters, dedupe, filter_rows, join_groups, matches, normalize, other_languages,
                               poor_answers, row_text)
from ftcook.data.splits import DataError, fingerprint, leakage, load_splits, read_card, split, write_splits

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
words = st.text('abcdeåß é.!', min_size=1, max_size=30)

def row(question, answer, **more):
    return dict(messages=[dict(role='user', content=question), dict(role='assistant', content=answer)], **more)

rows_of = st.lists(st.builds(row, words, words), min_size=1, max_size=12)

@st.composite
def tables(draw):
    n = draw(st.integers(4, 40))
    def one(i):
        return dict(id=i, kind=draw(st.sampled_from('abc')), day=draw(st.integers(0, 9)), group=draw(st.integers(0, n)))
    return [one(i) for i in range(n)]

@relaxed
@given(tables(), st.sampled_from(['random', 'stratified', 'source', 'time']), st.booleans(), st.integers(0, 5))
def test_splits_are_disjoint_complete_and_repeatable(rows, by, grouped, seed):
    key = {'time': 'day', 'random': None}.get(by, 'kind')
    groups = [r['group'] for r in rows] if grouped else None
    options = dict(test=.3, validation=.2, by=by, key=key, groups=groups, seed=seed)
    try: parts = split(rows, **options)
    except ValueError as e:
        assert 'loosen the groups' in str(e)
        return
    ids = {name: part['id'] for name,part in parts.items()}
    assert sorted(i for part in ids.values() for i in part) == [r['id'] for r in rows]
    assert {name: part['id'] for name,part in split(rows, **options).items()} == ids
    sides = {i: name for name,part in ids.items() for i in part}
    def together(field): return all(sides[a['id']] == sides[b['id']] for a in rows for b in rows if a[field] == b[field])
    if grouped: assert together('group')
    if by == 'source': assert together('kind')
    if by == 'time' and not grouped: assert max(parts['train']['day'], default=0) <= min(parts['test']['day'])
    if by == 'random' and not grouped:
        assert len(ids['test']) == round(.3*len(rows))
        assert len(ids['validation']) == round(.2*len(rows))

@relaxed
@given(tables(), st.integers(0, 5), st.randoms())
def test_split_does_not_depend_on_the_order_of_rows(rows, seed, rng):
    other = rng.sample(rows, len(rows))
    assert set(split(rows, test=.3, seed=seed)['test']['id']) == set(split(other, test=.3, seed=seed)['test']['id'])

def test_split_does_not_depend_on_hash_seed():
    code = ("from ftcook.data import split; rows = [dict(id=i, kind='ab'[i%2]) for i in range(50)]; "
            "print(split(rows, test=.2, by='stratified', key='kind')['test']['id'][:])")
    def printed(seed):
        env = {**os.environ, 'PYTHONHASHSEED': seed}
        return subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
    assert printed('1') == printed('2')

def test_a_split_by_time_never_reaches_behind_a_group_that_does_not_fit():
    rows = [dict(day=day) for day in range(6)]
    parts = split(rows, test=2, by='time', key='day', groups=['a', 'b', 'c', 'c', 'c', 'd'])
    assert parts['test']['day'][:] == [5]

def test_adding_rows_moves_few():
    rows = [dict(id=i) for i in range(1000)]
    before, after = (set(split(r, test=.1)['test']['id']) for r in (rows, rows + [dict(id=i) for i in range(1000, 1050)]))
    assert len(before - after) <= 15

@pytest.mark.parametrize('options, message', [
    (dict(by='hour'), "use 'random', 'stratified', 'source' or 'time'"), (dict(by='time'), 'needs `key`'),
    (dict(by='source', key='x'), "3 rows have no 'x', the first is row 0"), (dict(groups=[1, 1, 1]), 'loosen the groups')])
def test_split_explains(options, message):
    with pytest.raises(ValueError, match=message): split([dict(id=i) for i in range(3)], test=.4, **options)

@relaxed
@given(st.lists(words, max_size=15), st.floats(.3, 1))
def test_clusters_hold_exact_copies_and_true_pairs_only(texts, threshold):
    groups = clusters(texts, threshold)
    assert all(groups[g] == g <= i for i,g in enumerate(groups))
    for i in range(len(texts)):
        for j in range(i):
            if normalize(texts[i]) == normalize(texts[j]): assert groups[i] == groups[j]
    for i,found in enumerate(matches(texts, texts, threshold)):
        assert all(s >= threshold and groups[i] == groups[j] for j,s in found)

@relaxed
@given(rows_of, st.floats(.5, 1))
def test_dedupe_counts_add_up(rows, threshold):
    kept, rejects = dedupe(rows, threshold)
    assert len(kept) + len(rejects) == len(rows)
    assert sorted(map(fingerprint, kept + [r['row'] for r in rejects])) == sorted(map(fingerprint, rows))
    assert all(r['reason'] for r in rejects) and dedupe(kept, 1)[1] == []

@relaxed
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_join_groups_joins_what_shares_a_label_and_nothing_else(pairs):
    groups = join_groups(*zip(*pairs))
    reached = [{i} for i in range(len(pairs))] # the slow way: grow each row's group until nothing is added
    def alike(i, j): return pairs[i][0] == pairs[j][0] or pairs[i][1] == pairs[j][1]
    for i,group in enumerate(reached):
        while more := {j for j in range(len(pairs)) for k in group if alike(j, k)} - group: group |= more
        assert {j for j,g in enumerate(groups) if g == groups[i]} == group

@relaxed
@given(rows_of, st.integers(0, 3))
def test_filter_rows_loses_nothing(rows, n):
    def check(k): return lambda rows: ['odd' if len(row_text(r)) % (k+2) else None for r in rows]
    kept, rejects = filter_rows(rows, {str(k): check(k) for k in range(n)})
    assert len(kept) + len(rejects) == len(rows)
    assert kept == [r for r in rows if not any(len(row_text(r)) % (k+2) for k in range(n))]

@relaxed
@given(rows_of)
def test_grouped_split_does_not_leak(rows):
    groups = clusters([row_text(r, 'user') for r in rows], .5)
    assume(len(set(groups)) > 1)
    try: parts = split(rows, test=.4, groups=groups)
    except ValueError: assume(False) # no unit is small enough for the test
    assume('train' in parts) # one large group and a few rows: all of it may be in the test
    assert leakage(parts['train'], parts['test'], .6) == []

def test_leakage_names_the_nearest_training_row():
    train = [row('What does a permit cost?', 'a'), row('How high may a fence be?', 'b'), row('how high may a fence be', 'c')]
    test = [row('Where is the town hall?', 'd'), row('So, how high may a fence be?', 'e'), row('WHAT DOES A PERMIT COST', 'f')]
    exact, near = leakage(train, test)
    assert exact == dict(test=2, train=0, similarity=1.0)
    assert (near['test'], near['train']) == (1, 1) and .7 <= near['similarity'] < 1
    assert leakage(train, test, .9) == [exact] and leakage([], test) == leakage(train, []) == []

def test_checks_give_a_reason_or_nothing():
    rows = [row('Why?', ' … '), row('Who?', 'Me'), row('Is it so?', 'is it SO'), row('Go on.', 'and so on '*9),
            row('May I?', 'I’m sorry, but I cannot say.'), row('May I?', 'Sorry to hear that. Yes, you may.')]
    wanted = ['no answer', 'short answer (1 words)', 'copies the prompt', 'repeats itself (0.88)', 'refusal', None]
    assert poor_answers(rows) == wanted
    assert poor_answers(rows[1:2], least_words=1) == [None]
    swedish = row('Vad kostar ett bygglov för en altan?', 'Det beror på kommunen och på hur stor altanen är.')
    reason, = other_languages([swedish])
    assert reason.startswith('sv (')
    assert other_languages([swedish], wanted=('sv',)) == other_languages([row('Hej', 'Hej')]) == [None]

def test_card_names_data_and_notices_changes(tmp_path):
    rows = [row(f'question {i}', f'answer {i}') for i in range(20)]
    parts = split(rows, test=.2)
    folder = write_splits(parts, tmp_path, 'toy', 'made up', 'CC0-1.0')
    card = read_card(folder)
    assert folder.name == f"toy-{card['sha256'][:12]}" and card['splits']['test']['rows'] == 4
    assert write_splits(parts, tmp_path, 'toy', 'made up', 'CC0-1.0') == folder
    assert load_splits(folder)['train'].to_list() == parts['train'].to_list()
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    other = write_splits(split([row('other', 'row')]*20, test=.2), tmp_path, 'toy', 'made up', 'CC0-1.0')
    assert other != folder
    (folder/'test.jsonl').write_bytes((folder/'test.jsonl').read_bytes().replace(b'answer', b'Answer'))
    with pytest.raises(DataError, match='test.jsonl: the content changed'): load_splits(folder)
    (folder/'test.jsonl').unlink()
    with pytest.raises(DataError, match='test.jsonl: missing'): load_splits(folder)
    with pytest.raises(DataError, match='no data card'): read_card(tmp_path)

def test_every_character_comes_back_from_disk(tmp_path):
    rows = [row(f'{i}: a\u2028b\u2029c\x85d\x0be\x1cf', 'one\ntwo\r\nthree\rfour') for i in range(5)]
    parts = split(rows, test=2)
    loaded = load_splits(write_splits(parts, tmp_path, 'odd', 'made up', 'CC0-1.0'))
    for side in ('train', 'test'): assert loaded[side].to_list() == parts[side].to_list()

def test_killed_while_writing_leaves_nothing_or_all(tmp_path, monkeypatch):
    from ftcook.data import splits
    def killed(card): raise KeyboardInterrupt
    monkeypatch.setattr(splits, 'card_markdown', killed)
    parts = split([dict(id=i) for i in range(9)], test=3)
    with pytest.raises(KeyboardInterrupt): write_splits(parts, tmp_path/'sets', 'toy', 'made up', 'CC0-1.0')
    assert list((tmp_path/'sets').iterdir()) == []
