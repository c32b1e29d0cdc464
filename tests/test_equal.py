"Equal means equal: what compares rows keeps the signs that have a meaning, and drops what has none."
import random, re
import pytest
from hypothesis import given, settings, strategies as st
from ftcook.data import clusters, dedupe, duplicates, leakage, matches, normalize, poor_answers, similarity
from ftcook.doctor import diagnose_data

def row(question, answer='It is so.', **more):
    return dict(messages=[dict(role='user', content=question), dict(role='assistant', content=answer)], **more)

others = [
    ('What is |-5|?', 'What is |5|?'), ('Write hello world in C++', 'Write hello world in C#'),
    ('Is it written in C?', 'Is it written in C++?'),
    ('Is x < 5 a valid condition?', 'Is x > 5 a valid condition?'), ('Is 1.5 a number?', 'Is 1/5 a number?'),
    ('What does a += b do?', 'What does a -= b do?'), ('if (!ready) go();', 'if (ready) go();'),
    ('Translate: 😀', 'Translate: 😡'),
    ('Was kostet 3€?', 'Was kostet 3$?'), ('What is 3 - 5?', 'What is 3 + 5?'), ('What is 3 − 5?', 'What is 3 · 5?'),
    ('What is 5!?', 'What is 5?'), ('What is n! for n = 3', 'What is n for n = 3'), ('What is 2⁵?', 'What is 25?'),
    ('What is x²?', 'What is x₂?'),
    ('What is ½ of it?', 'What is 1⁄2⁄ of it?'), ('Is a != b here?', 'Is a = b here?'), ('Run ls -l now', 'Run ls l now'),
    ('Run rm -rf /tmp', 'Run rm -rf / tmp'), ('Is 1,5 more than 1?', 'Is 15 more than 1?'),
    ('At 12:30 or later?', 'At 1230 or later?'),
    ('What is (3+5)*2?', 'What is 3+(5*2)?'), ('What is [1, 2]?', 'What is (1, 2)?'), ('What is "1" + 1?', 'What is 1 + 1?'),
    ('Is it 20 % or more?', 'Is it 20 or more?'), ('Is it 20° here?', 'Is it 20 here?'), ('x & y', 'x | y'), ('~x', 'x'),
    ('Tag #5', 'Tag 5'),
    ('यह किला है', 'यह कला है'), ('👨‍👩‍👧 or not?', '👨👩👧 or not?'),
    ('if x:\n  a()\n  b()', 'if x:\n  a()\nb()'),
    ('Is a ? b : c right', 'Is a b c right'),
    ('f(x) = 2', 'f x = 2'), ('a*b', 'a**b'), ('Is it +5 or so?', 'Is it -5 or so?'), ('₹5', '¥5'),
    ('1 000 or more', '1000 or more')]

@pytest.mark.parametrize('a, b', others)
def test_another_sign_is_another_question(a, b):
    assert normalize(a) != normalize(b)
    for text in ('fine', 'It changes a. '*30): # a long answer does not hide it
        assert duplicates([row(a, text), row(b, text)]) == [None, None]
        assert duplicates([row('Q', a), row('Q', b)]) == [None, None]
    assert dedupe([row(a), row(b)], 1)[1] == [] and len(set(clusters([a, b], .8))) == 2
    if len(a) > 12: assert leakage([row(a)], [row(b)], .95) == []

same = [
    ('Hello,  WORLD!', 'hello world'), ('Why?', 'why'), ('Yes. No.', 'yes, no'), ('¿Cómo está?', 'cómo está'),
    ('Bonjour !', 'bonjour'),
    ('“Why” – she asked', '"why" - she asked'), ("It’s so", "it's so"), ('Ｈｅｌｌｏ', 'hello'), ('ﬁne', 'fine'),
    ('cafe\u0301', 'café'),
    ('a\u00a0b', 'a b'), ('one\ntwo', 'one two'), ('STRASSE', 'straße'), ('soft\u00adhyphen', 'softhyphen'),
    ('What?!  Really…', 'what really'),
    ('3 − 5', '3 - 5'), ('It cost 5 kr.', 'it cost 5 kr'), ('In 2020, it was', 'in 2020 it was'), ('你好。', '你好')]

@pytest.mark.parametrize('a, b', same)
def test_what_has_no_meaning_falls(a, b):
    assert normalize(a) == normalize(b) and similarity(a, b) == 1
    assert duplicates([row(a), row(b)])[1] == 'like row 0 (1.00)'

def test_copy_is_said_of_exact_repeats_only():
    assert duplicates([row('Why?'), row('Why?'), row('why?')]) == [None, 'copy of row 0', 'like row 0 (1.00)']

def test_675_questions_are_675_questions():
    rows = [row(f'What is {a} {op} {b}?', str(eval(f'{a}{op}{b}'))) for a in range(1, 16) for b in range(1, 16) for op in '+-*']
    sums, differences = rows[::3], rows[1::3]
    for threshold in (1, .8): assert dedupe(rows, threshold)[1] == []
    assert leakage(sums, differences) == leakage(differences, sums) == []
    assert set(diagnose_data(rows).codes) == set() == set(diagnose_data(sums, differences).codes)

def test_certain_is_said_of_exact_repeats_only():
    train = [row(f'How high may a fence of kind {i} be?', f'{i} metres') for i in range(20)]
    def leaks(test): return [(f.code, f.confidence) for f in diagnose_data(train, test) if f.code == 'leak']
    assert leaks([row('How high may a fence of kind 3 be?', '3 metres')]) == [('leak', 'certain')]
    assert ('leak', 'certain') not in leaks([row('how high may a fence of kind 3 be', '3 metres')])
    assert leaks([row('How high may a fence of kind -3 be?', '3 metres')]) == []

def test_tool_calls_and_tool_results_count():
    def asked(arguments, result='ok'):
        call = dict(role='assistant', content=None, tool_calls=[dict(function=dict(name='f', arguments=arguments))])
        return dict(messages=[dict(role='user', content='Please do it.'), call, dict(role='tool', content=result)])
    rows = [asked(dict(n=1)), asked(dict(n=2)), asked(dict(n=1)), asked(dict(n=1), 'It failed: no such file.')]
    assert duplicates(rows) == [None, None, 'copy of row 0', None]

def test_long_texts_may_differ_in_a_number():
    page = ' '.join(f'word{chr(97 + i % 26)} and another thing' for i in range(30))
    assert similarity(f'{page} printed in 2019', f'{page} printed in 2020') > .9
    assert similarity('printed in 2019', 'printed in 2020') == 0

def test_tables_do_not_repeat_themselves():
    table = '\n'.join(['| a | b |', '| --- | --- |'] + [f'| {a} | {b} |' for a,b in zip('cdefghij', 'klmnopqr')])
    assert poor_answers([row('Show it.', table)]) == [None]

@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40) | st.text('ab1 .,!?()-\n\t"’²x😀', max_size=30))
def test_normalize_is_settled(text):
    once = normalize(text)
    assert normalize(once) == once and normalize(text.upper().lower()) == normalize(text.lower())
    assert bool(once) == bool(text.strip() and once) and not re.search(r'  (?! )\S', once.replace('\n  ', '\n'))

@settings(max_examples=80, deadline=None)
@given(st.text('ab1. ?!+-*/<>=%#😀²', min_size=1, max_size=25), st.sampled_from('+*/<>=%#😀²7'), st.data())
def test_a_symbol_more_is_another_text(text, symbol, data):
    at = data.draw(st.integers(0, len(text)))
    other = text[:at] + symbol + text[at:]
    assert normalize(text) != normalize(other) and similarity(text, other) < 1 and len(set(clusters([text, other], .5))) == 2

def test_hostile_texts_take_linear_time():
    import time
    start = time.process_time()
    for text in (' '*200_000 + 'x', '!'*200_000 + 'x', '.,'*100_000 + ' x', '\n'*200_000 + 'x', '('*200_000, '1.'*100_000,
        '\u0301'*200_000):
        normalize(text), similarity(text, 'x')
    assert time.process_time() - start < 5

@pytest.mark.parametrize('threshold', [.5, .8])
def test_near_duplicates_against_brute_force(threshold):
    rng = random.Random(int(threshold*10))
    words = [''.join(rng.choices('abcdefghijklmnop', k=rng.randint(2, 8))) for _ in range(300)] + list('12345+-<>')
    texts = []
    for _ in range(60):
        base = rng.choices(words, k=rng.randint(5, 80))
        for _ in range(5): texts.append(' '.join(rng.choice(words) if rng.random() < rng.choice([.01, .05,
            .1]) else w for w in base))
    slow = {(i, j) for i in range(len(texts)) for j in range(i) if similarity(texts[i], texts[j]) >= threshold}
    fast = {(i, j) for i,found in enumerate(matches(texts, texts, threshold)) for j,_ in found if j < i}
    assert fast <= slow and len(slow) > 50 and len(fast) >= .999*len(slow) - .5
