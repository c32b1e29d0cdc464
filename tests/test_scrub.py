"""Scrubbing is judged by what is left: nothing that was found survives, in any format, and the doctor agrees."""
import copy, json, random, re, subprocess, sys, time, warnings
from collections import Counter
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from ftcook.data import pii
from ftcook.data.pii import (find_accounts, find_pii, find_secrets, harmless_sentences, invented_keys, pii_entities, pii_scores,
                             pii_sentences, replaced_spans, row_text, scrub, secret_patterns, texts_inside)
from ftcook.doctor import diagnose_data

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
without_names = tuple(e for e in pii_entities if e != 'PERSON')

def talk(question, answer): return dict(messages=[dict(role='user', content=question), dict(role='assistant', content=answer)])

# The bars, on sentences of another author, with another seed than the lesson's

sure = 'EMAIL_ADDRESS IBAN_CODE IPV4 IPV6 US_SSN SE_PERSONNUMMER CREDIT_CARD SECRET'.split()
bars = dict.fromkeys(sure, .98) | dict(PHONE_NUMBER=.95, PERSON=.9)

@pytest.fixture(scope='module')
def english():
    texts, truth = pii_sentences(600, seed=7)
    return texts, scrub(texts), truth

@pytest.mark.parametrize('entity', bars)
def test_recall_of_the_output(english, entity):
    score = pii_scores(*english)[entity]
    assert score['n'] >= 5 and score['recall'] >= bars[entity], score

def test_precision_of_the_output(english):
    scores = pii_scores(*english)
    assert all(scores[e]['precision'] >= .98 for e in scores if scores[e]['replaced'] and e != 'PERSON')
    assert scores['PERSON']['precision'] >= .85

@pytest.mark.parametrize('language', ['sv', 'de'])
def test_what_has_a_form_is_found_in_other_languages(language):
    texts, truth = pii_sentences(300, 7, language)
    scores = pii_scores(texts, scrub(texts, without_names), truth)
    assert all(s['recall'] >= bars[e] for e,s in scores.items() if s['n'] and e not in ('PERSON', 'ADDRESS'))

def test_harmless_sentences_stay_as_they_are():
    texts = harmless_sentences(100, seed=7)
    changed = [(a, b) for a,b in zip(texts, scrub(texts)) if a != b]
    assert len(changed) <= 5, changed

def left(secret, output): return any(secret[i:i+6] in output for i in range(len(secret) - 5))

surroundings = ['{}', 'Deploy it with {} tonight.', 'export API_TOKEN={}', '"client_secret": "{}"', 'see `{}`.', '({})',
                'key:{},', 'x\n{}\ny']
@pytest.mark.parametrize('kind', list(invented_keys(random.Random(0))))
def test_keys_of_every_kind(kind):
    rng, leaks = random.Random(7), []
    for i in range(100):
        key, start, end = invented_keys(rng)[kind]
        output = scrub(surroundings[i % len(surroundings)].format(key), ('SECRET',))
        if left(key[start:end], output): leaks.append(output)
    assert len(leaks) <= (4 if kind == 'aws_secret' else 0), leaks

@pytest.mark.parametrize('text,secret', [
    ('client_secret=1BsDJOKGIbWnR9MGG1kTj0tcwSSfpFQx', '1BsDJOKGIbWnR9MGG1kTj0tcwSSfpFQx'),
    ('DB_PASSWORD=hunter2hunter2', 'hunter2hunter2'),
    ('{"db_password": "Tr0ub4dor&3xyz"}', 'Tr0ub4dor&3xyz'), ('MY_API_KEY: 0123456789abcdef', '0123456789abcdef'),
    ('"accessToken": "k3jr8fj39fk2"', 'k3jr8fj39fk2'),
    ('Passwort: Sommer2024!', 'Sommer2024!'), ('lösenord: hemligt99', 'hemligt99'),
    ('the password is hunter22', 'hunter22'), ('Authorization: Bearer abcdefghij0123456789', 'abcdefghij0123456789'),
    ('Authorization: Basic dXNlcjpwYXNzd29yZDE=', 'dXNlcjpwYXNzd29yZDE='), ('https://u:p@ss!w0rd@host/x', 'p@ss!w0rd'),
    ('X-Api-Key: 8f14e45fceea167a', '8f14e45fceea167a'),
    ('password: "correct horse battery staple"', 'correct horse battery staple'),
    ('-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----', 'MIIEow'),
    ('-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA', 'MIIEowIBAAKCAQEA')])
def test_secrets_by_what_stands_beside_them(text, secret):
    assert secret not in scrub(text) and secret not in scrub(f'It says {text}\nthere.', ('SECRET',))

@pytest.mark.parametrize('text', [
    'token: optional_argument', 'password=getpass()', 'password = os.environ["DB_PASSWORD"]', 'max_tokens: 123456',
    'AutoModelForSeq2SeqLM',
    'pad_token="<|endoftext|>"', '"password": "string"', 'api_key: your_api_key_here', 'da39a3ee5e6b4b0d3255bfef95601890afd80709',
    'token=<SECRET_1>', 'secret: ********', '550e8400-e29b-41d4-a716-446655440000',
    'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA'])
def test_code_is_no_secret(text): assert find_secrets(text) == []

@pytest.mark.parametrize('text', [
    'The loss is 0.424434 now.', 'The loss fell to 0.4839201756 by then.',
    'Order number 2125550172 shipped.', 'at 1712345678 the job ended', 'driver 5.12.3.18',
    'v1.2.3.4',
    'ISBN 978-3-16-148410-0', '2024-03-11 12:30:59', 'std::cout << a::b',
    'between 1998 and 2024 (1998 - 2024)', 'EAN 4006381333931'])
def test_numbers_that_are_nobodys(text): assert scrub(text) == text

def test_at_before_a_phone():
    for text in ('reach the office at 0191 498 0743', 'Call me at 2125550172'): assert '<PHONE_NUMBER_1>' in scrub(text)

def test_mastercards_second_series():
    def valid(start):
        number = start + '000000000'
        return next(number + c for c in '0123456789' if pii._recognizers()['CREDIT_CARD'].validate_result(number + c))
    cards = [valid(f'{start}00') for start in (2221, 2345, 2500, 2720)]
    for card in cards + [' '.join(c[i:i+4] for i in range(0, 16, 4)) for c in cards]:
        assert scrub(f'I paid with {card} today.') == 'I paid with <CREDIT_CARD_1> today.'

def test_ipv6_is_replaced_whole():
    for address in ('9f26:beef:cafe:1:2:3:4:b75f', '2001:db8::ff00:42:8329', 'fe80::1'):
        assert scrub(f'Allow {address} in the firewall please') == 'Allow <IP_ADDRESS_1> in the firewall please'

# Every format

mail = 'write to bob.smith@acme-corp.com'
formats = dict(
    text=mail, messages=talk(mail, mail), prompt_completion=dict(prompt=mail, completion=mail),
    parts=dict(messages=[dict(role='user', content=[dict(type='text', text=mail)])]),
    sharegpt=dict(conversations=[{'from': 'human', 'value': mail}, {'from': 'gpt', 'value': mail}], system=mail),
    alpaca=dict(instruction=mail, input=mail, output=mail, system=mail, history=[[mail, mail]]),
    preference=dict(prompt=mail, chosen=mail, rejected=mail),
    pairs=dict(prompt=talk(mail, mail)['messages'], chosen=[dict(role='assistant', content=mail)], rejected=[]),
    tools=dict(messages=[
        dict(role='assistant', content=None, tool_calls=[dict(id='a', function=dict(name='mail', arguments=json.dumps({
        'to': ['bob.smith@acme-corp.com'], 'from': 'bob.smith@acme-corp.com', 'inner': json.dumps({'x': mail})})))]),
        dict(role='tool', content=json.dumps({'bob.smith@acme-corp.com': 1}))], tools=[dict(description=mail)]),
    arguments=dict(messages=[dict(role='assistant', tool_calls=[dict(function=dict(name='mail', arguments={'to': mail}))])]),
    escaped=dict(text='{"to": "bob.smith\\u0040acme-corp.com"}'))

@pytest.mark.parametrize('name', formats)
def test_every_string_of_every_format(name):
    row, before = formats[name], copy.deepcopy(formats[name])
    clean = scrub(row, without_names)
    assert row == before
    assert 'bob.smith' not in str(clean) and '<EMAIL_ADDRESS_1>' in str(clean) and '_2>' not in str(clean)

def test_json_stays_json():
    arguments = '{"to":"bob@acme.com","card":4111111111111111,"password":123456,"n":2179,"ok":true,"s":"é"}'
    clean = scrub(dict(messages=[dict(role='assistant', tool_calls=[dict(function=dict(name='f', arguments=arguments))])]))
    inner = clean['messages'][0]['tool_calls'][0]['function']['arguments']
    found = {'to': '<EMAIL_ADDRESS_1>', 'card': '<CREDIT_CARD_1>', 'password': '<SECRET_1>'}
    assert json.loads(inner) == found | {'n': 2179, 'ok': True, 's': 'é'}
    untouched = '{"a" : [1,  2.50, "x"]}'
    assert scrub(dict(text=untouched)) == dict(text=untouched)

def test_it_says_which_columns_were_left_alone():
    row = dict(text=mail, author='bob.smith@acme-corp.com', meta=dict(mail='bob.smith@acme-corp.com', phone='2125550172'), n=1)
    with pytest.warns(UserWarning, match='leaves these columns alone: author, meta;'): clean = scrub([row])[0]
    assert clean == row | dict(text='write to <EMAIL_ADDRESS_1>')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert scrub(row, columns=()) == clean
        assert scrub(row, columns=('author',)) == clean | dict(author='<EMAIL_ADDRESS_1>')
        assert scrub(row, columns='all')['meta'] == dict(mail='<EMAIL_ADDRESS_1>', phone='<PHONE_NUMBER_1>')
        assert scrub(talk('a', 'b')) == talk('a', 'b')

# Nothing that was found survives

def test_nothing_that_was_found_is_left(english):
    texts, cleaned, _ = english
    for text,clean,results in zip(texts, cleaned, find_pii(texts)):
        for r in results: assert not re.search(rf'(?<!\w){re.escape(text[r.start:r.end])}(?!\w)', clean)

pieces = st.sampled_from([
    'password', '=', ': ', ' ', '"', "'", '\n', 'token', 'hunter2x', '4111 1111 1111 1111', 'bob@acme.com', '{', '}', ',',
    '_', 'secret', 'AKIA2E4XKQWJH7TB5ZLM',
    'sk_live_' + 'a1B2'*6, '<SECRET_1>', '://u:', '@', 'DE89 3704 0044 0532 0130 00', 'ghp_' + 'a1B2'*9,
    '+46 70 174 06 05', '10.120.13.44', 'is', 'é', '😀', '\ud83d', '\\', ')', '.', '\u2028'])
@relaxed
@given(st.lists(st.lists(pieces, max_size=12).map(''.join), min_size=1, max_size=3))
def test_whatever_stands_beside_it(texts):
    rows = [talk(t, json.dumps(dict(password=t, list=[t]))) for t in texts]
    clean = scrub(rows, without_names)
    assert scrub(clean, without_names) == clean
    assert 'secrets' not in diagnose_data([talk('Hi', 'There')] + clean).codes
    for t in texts:
        once = scrub(t, without_names)
        assert scrub(once, without_names) == once
        assert not any(find_secrets(part) + find_accounts(part) for part in texts_inside(once))

def test_the_doctor_agrees(english):
    texts, cleaned, _ = english
    before, after = ([talk('Hi', t) for t in o] for o in (texts, cleaned))
    assert 'secrets' in diagnose_data(before).codes and 'secrets' not in diagnose_data(after).codes
    assert not any(map(find_secrets, cleaned))

def test_twice_is_once(english): assert scrub(english[1]) == english[1]

# Consistently

def test_the_same_value_has_the_same_placeholder(english):
    rng = random.Random(0)
    for _ in range(5):
        own = rng.sample(english[0], 6)
        messages = [dict(role=('user', 'assistant')[i % 2], content=t) for i,t in enumerate(own + own)]
        clean = scrub(dict(messages=messages, id='Maria Lopez'), columns=())
        contents = [m['content'] for m in clean['messages']]
        assert contents[:6] == contents[6:] and clean['id'] == 'Maria Lopez'
    assert scrub(english[0][:9]) == [scrub(t) for t in english[0][:9]]

def test_people_are_kept_apart():
    text = 'Anna Berg wrote to John Smith on Monday. John Smith answered Anna Berg at anna@example.com.'
    once = scrub(text)
    assert Counter(w.strip('.') for w in once.split()) >= Counter(['<PERSON_1>']*2 + ['<PERSON_2>']*2 + ['<EMAIL_ADDRESS_1>'])
    assert scrub(once) == once
    assert 'Anna Berg' in scrub(text, allow=('Anna Berg',))

def test_a_person_is_one_in_all_turns():
    clean = row_text(scrub(talk('Maria Lopez here, on (212) 555-0172.', 'Thank you, Maria. We call 212-555-0172.')))
    assert clean == '<PERSON_1> here, on <PHONE_NUMBER_1>.\nThank you, <PERSON_1>. We call <PHONE_NUMBER_1>.'

def test_what_was_found_once_is_replaced_wherever_it_stands():
    row = talk('password: hunter2x', 'You typed hunter2x?') | dict(text='hunter2x')
    assert 'hunter2x' not in str(scrub(row)) and str(scrub(row)).count('<SECRET_1>') == 3

def test_a_key_is_replaced_to_its_end():
    for key in ('sk_live_' + 'a1b2'*25, 'glpat-' + 'a1b2'*30): assert scrub(f'use {key} now') == 'use <SECRET_1> now'

def test_what_cannot_be_a_name():
    for text in ('max', 'mm', '≥', 'ISO 14001', 'w ≤'): assert pii._name(f'the {text} is', 4, 4 + len(text)) is None
    assert pii._name('cc Amber Carter there', 9, 15) == (3, 15) and pii._name('Ask Carter', 4, 10) == (4, 10)

def test_numbering_goes_on_where_it_stopped():
    assert scrub('<EMAIL_ADDRESS_4> and bob@acme.com') == '<EMAIL_ADDRESS_4> and <EMAIL_ADDRESS_5>'
    assert scrub('password: PERSON77 of <PERSON_1>', ('SECRET',)) == 'password: <SECRET_1> of <PERSON_1>'

# Odd and large input

@pytest.mark.parametrize('text', ['', ' ', 'a\0b', '\ud83d', '😀'*1000, '<PERSON_1>', '{', '[]', '{"a": NaN}'])
def test_odd_texts_pass(text): assert scrub(text) == text

def test_lone_surrogates_and_very_long_texts():
    assert scrub('\ud83d bob@acme.com') == '\ud83d <EMAIL_ADDRESS_1>'
    start = time.process_time()
    long = 'word '*210_000 + 'Please ask Maria Lopez, bob@acme.com'
    assert scrub(long, without_names)[-41:] == 'Please ask Maria Lopez, <EMAIL_ADDRESS_1>'
    pieces = list(pii._pieces(long))
    assert ''.join(p for _,p in pieces) == long and all(long[at:at+9] == p[:9] for at,p in pieces)
    assert max(len(p) for _,p in pieces) < 10**5
    assert time.process_time() - start < 30

@pytest.mark.parametrize('unit', ['a', 'a-', 'eyJ', '://', 'sk-', '-----BEGIN PRIVATE KEY-----', 'password: ', '1 ', '1.', 'a@',
                                  'aws', '"', '{', '_'])
def test_hostile_texts_take_no_time(unit):
    start = time.process_time()
    find_secrets(unit*(100_000//len(unit)))
    assert time.process_time() - start < 5

def test_rows_that_are_no_texts_pass(): assert scrub([dict(content=None), dict(text=5), dict(text=True)]) == [
    dict(content=None), dict(text=5), dict(text=True)]

# Speed, and quietly

def test_a_thousand_rows_a_second_for_secrets(english):
    rng = random.Random(0)
    rows = [talk('Hi', ' '.join(rng.choices(english[0], k=rng.randint(1, 4)))[:300]) for _ in range(500)]
    scrub(rows[:1], ('SECRET',))
    start = time.process_time()
    scrub(rows, ('SECRET',))
    assert len(rows)/(time.process_time() - start) > 1000

def test_looking_for_personal_data_changes_nothing_in_the_process_and_needs_no_network():
    code = '''
import os, socket, sys
def refuse(*args, **kwargs): raise AssertionError('asked the network')
socket.getaddrinfo = socket.socket.connect = refuse
from ftcook.data import scrub
assert not {'spacy', 'presidio_analyzer', 'detect_secrets'} & set(sys.modules)
environment = dict(os.environ)
print(scrub('Write to anna@mail.acme or to Maria Lopez'))
assert dict(os.environ) == environment
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout == 'Write to <EMAIL_ADDRESS_1> or to <PERSON_1>\n' and not out.stderr

# The measure itself

def test_labels_are_where_they_say():
    for language in ('en', 'sv', 'de'):
        texts, truth = pii_sentences(90, 5, language)
        assert all(t[s:e].strip() == t[s:e] and e > s for t,spans in zip(texts, truth) for s,e,_ in spans)
        assert (texts, truth) == pii_sentences(90, 5, language) != pii_sentences(90, 6, language)

def test_what_was_replaced_is_read_off_the_output():
    text = 'Ann wrote to bob@acme.com from 10.120.13.44.'
    assert replaced_spans(text, '<PERSON_1> wrote to <EMAIL_ADDRESS_1> from <IP_ADDRESS_1>.') == [
        (0, 3, 'PERSON'), (13, 25, 'EMAIL_ADDRESS'), (31, 43, 'IP_ADDRESS')]
    assert replaced_spans(text, text) == []
    with pytest.raises(ValueError, match='not made from the text'): replaced_spans(text, 'something else')

def test_scores_of_a_case_worked_by_hand():
    texts = ['Ann and Bo', 'call 5551234', 'nothing here', 'Cy, Cy']
    clean = ['<PERSON_1> and Bo', 'call <CREDIT_CARD_1>', 'nothing <PERSON_1>', '<PERSON_1>, Cy']
    truth = [[(0, 3, 'PERSON'), (8, 10, 'PERSON')], [(5, 12, 'PHONE_NUMBER')], [], [(0, 2, 'PERSON')]]
    scores = pii_scores(texts, clean, truth)
    assert scores['PERSON'] == dict(n=3, recall=1/3, replaced=3, precision=2/3) # one overlooked, one still there, one false alarm
    assert scores['PHONE_NUMBER'] == dict(n=1, recall=1, replaced=0, precision=None) # gone, under whatever name
    assert scores['CREDIT_CARD'] == dict(n=0, recall=None, replaced=1, precision=1)

def test_no_name_of_a_secret_is_passed_over():
    from detect_secrets.plugins.keyword import DENYLIST
    assert [name for name in DENYLIST if not any(stem in name.replace('_?', '') for stem in pii._stems)] == []
    for name in ('pw', 'PASS', 'Kennwort', 'LÖSENORD', 'Contraseña', 'signing key', 'credentials', 'paſſword'):
        assert scrub(f'{name}: "x7!hunter2x"') == f'{name}: "<SECRET_1>"'

def test_patterns_come_from_detect_secrets():
    assert {'aws', 'gitlab_token', 'slack', 'stripe', 'twilio'} <= set(secret_patterns()) and 'ip_public' not in secret_patterns()
