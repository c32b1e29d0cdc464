"""What the stages of lesson 08d are fed with."""
from ftcook.chain import instruction_rows, join_texts, voice_pairs
from ftcook.tasks import get_task
from ftcook.tasks.flights import voice_of

rows = get_task('flights').rows(12)

def test_no_text_is_lost(): assert '\n\n'.join(join_texts(list('abcde'), 2)) == '\n\n'.join('abcde')

def test_examples_come_in_both_voices_and_pairs_prefer_one():
    "Else the last stage would have nothing to do, or would prefer the wrong one."
    said = [voice_of(row['messages'][-1]['content']) for row in instruction_rows(rows, 8)]
    assert (said.count('brand'), said.count('neutral'), said.count('')) == (4, 4, 12)
    for pair in voice_pairs(rows):
        assert [voice_of(pair[side][0]['content']) for side in ('chosen', 'rejected')] == ['brand', 'neutral']
