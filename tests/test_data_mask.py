"The loss mask: what the check refuses, and what the picture shows; and the face that re-exports the four data modules."
import subprocess, sys
from types import SimpleNamespace as Box
import pytest
import ftcook.data
from ftcook.data.mask import LossMask, LossMaskError, check_loss_mask

end = 2 # the token that ends a turn

def trainer(*labels, packing=False):
    tokenizer = Box(eos_token_id=end, eos_token='</s>')
    return Box(train_dataset=dict(labels=list(labels)), processing_class=tokenizer, args=Box(packing=packing, max_length=9))

good = [-100, -100, 5, 6, end]

def test_what_is_counted():
    assert check_loss_mask(trainer(good, [-100, 5, end, 7]), given=2) == dict(rows=2, tokens=9, share=6/9, stops=2)
    assert check_loss_mask(trainer([5, 6, 7, 8, 9], packing=True), given=3) == dict(rows=1, tokens=5, share=1, stops=0)

@pytest.mark.parametrize('labels, given, message', [
    ([good], 3, r'2 of 3 rows were dropped.*max_length \(now 9\)'),
    ([], 3, 'no row is left'),
    ([], None, 'no row is left'),
    ([good, [-100]*5], 2, 'the first is row 1: .*{% generation %} around'),
    ([[-100]*300 + [5, end]], 1, 'only 0.66% of the tokens count'),
    ([good, [-100, 5, 6]], 2, r"1 of 2 rows do not end in '</s>'.*inside {% generation %}"),
    ([good, [-100, end, 6, 7, 8]], 2, '1 of 2 rows do not end')])
def test_what_is_refused(labels, given, message):
    with pytest.raises(LossMaskError, match=message): check_loss_mask(trainer(*labels), given=given)

def test_packed_rows_without_a_token_that_counts_are_refused():
    with pytest.raises(LossMaskError, match='no token that counts'): check_loss_mask(trainer([-100]*9, packing=True))

def test_the_picture_says_the_same_in_both_forms():
    mask = LossMask([[('<b>', 'context'), ('4\n', 'loss'), ('</s>', 'padding')]])
    assert str(mask) == '<b>[4\n]·'
    assert '<div><i>&lt;b&gt;</i><u>4⏎<br></u>·</div>' in mask._repr_html_()

def test_the_face_has_every_public_name_once():
    parts = [getattr(ftcook.data, name) for name in
             ('check', 'shapes', 'kinds', 'pii', 'clean', 'splits', 'mask', 'sourcing', 'labels', 'audit')]
    names = [name for part in parts for name in part.__all__]
    assert ftcook.data.__all__ == names and len(set(names)) == len(names)
    for part in parts:
        for name in part.__all__: assert getattr(ftcook.data, name) is getattr(part, name)

def test_importing_the_face_is_light():
    heavy = {'torch', 'transformers', 'datasets', 'trl', 'matplotlib', 'numpy', 'spacy', 'presidio_analyzer', 'tldextract',
             'datasketch', 'faker', 'py3langid'}
    code = ('import sys, warnings; before = list(warnings.filters); import ftcook.data; '
            f'assert warnings.filters == before; print({heavy!r} & set(sys.modules))')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == 'set()'
