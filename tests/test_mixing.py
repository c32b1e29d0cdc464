"""Mixtures, noise and losses of lesson 08c."""
import json
import pytest, torch
from ftcook.doctor.toy import plain_model, toy_tokenizer
from ftcook.mixing import answer_losses, easy_first, general_rows, mix, with_noise
from ftcook.tasks import get_task

task = get_task('flights')

def test_what_is_mixed_in_is_not_what_is_measured_on():
    seen, unseen = ({row['messages'][1]['content'] for row in general_rows(split)} for split in ('train', 'test'))
    assert not seen & unseen and len(seen) > 4*len(unseen) > 150
    with pytest.raises(ValueError, match="use 'train' or 'test'"): general_rows('validation')

@pytest.mark.parametrize('share, general', [(0, 0), (.1, 10), (.5, 90)])
def test_a_mixture_keeps_every_row_of_the_task(share, general):
    "Also where general rows have to come again."
    rows, some = task.rows(90), general_rows()[:40]
    mixed = mix(rows, some, share)
    assert sum(row in some for row in mixed) == general and all(row in mixed for row in rows)
    assert not general or mixed[:90] != rows

def test_noise_changes_one_field_of_the_share_asked_for():
    rows = task.rows(60)
    changed = [(a, b) for a,b in zip(rows, with_noise(rows, .25)) if a != b]
    assert len(changed) == 15
    for pair in changed:
        right, wrong = (json.loads(row['messages'][-1]['content']) for row in pair)
        assert right.keys() == wrong.keys() and sum(right[k] != wrong[k] for k in right) == 1
        assert pair[0]['messages'][:-1] == pair[1]['messages'][:-1]

def test_losses_are_those_of_the_answers_tokens():
    "Against transformers' own loss, row by row: padding, and what the user says, must not count."
    model, tokenizer = plain_model(), toy_tokenizer()
    def row(question, answer): return dict(messages=[dict(role='user', content=question), dict(role='assistant', content=answer)])
    rows = [row('w1', 'w2 w3 w4 w5'), row('w5 w6 w7', 'w1'), row('w2', 'w2 w9')]
    def alone(row):
        def ids(messages, **kw): return tokenizer.apply_chat_template(messages, return_dict=True, **kw)['input_ids']
        whole, begin = ids(row['messages']), len(ids(row['messages'][:1], add_generation_prompt=True))
        return model(input_ids=torch.tensor([whole]), labels=torch.tensor([[-100]*begin + whole[begin:]])).loss.item()
    found = answer_losses(model, tokenizer, rows, batch_size=2)
    assert found == pytest.approx([alone(row) for row in rows], rel=1e-4)
    assert easy_first(rows, [2., .5, 1.]) == [rows[1], rows[2], rows[0]]
    with pytest.raises(ValueError, match='one for each'): easy_first(rows, [1.])
