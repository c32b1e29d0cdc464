"""Faults of plans: too few requests, too many comparisons."""
import itertools
import numpy as np
import pytest
from scipy.stats import binomtest
from ftcook.comparisons import _connor, holm, pairs_needed, power, users_needed

@pytest.mark.parametrize('a, b', [(.1, .1), (.7, .6), (0, 0)])
def test_pairs_needed_refuses_what_has_no_answer(a, b):
    with pytest.raises(ValueError): pairs_needed(a, b)

def test_connors_formula():
    "n = ((z_{.975} sqrt(.3) + z_{.8} sqrt(.3 - .1²))/.1)², worked by hand: 233.9."
    assert _connor(.1, .2) == _connor(.2, .1) == 234

def test_pairs_needed_have_the_power():
    "The formula alone promises .8 and gives as little as .75; with few requests, nothing."
    assert pairs_needed(0, 1) == 6 and power(4, 0, 1) == power(5, 0, 1) == 0 and power(6, 0, 1) == 1
    for a,b,wanted in itertools.product((0, .02, .1, .3), (.05, .15, .4, .7), (.5, .8, .95)):
        n, formula = pairs_needed(a, b, wanted), _connor(a, b, wanted)
        assert power(n, a, b) >= wanted and formula <= n <= formula + 2.2/abs(a - b) + 5, (a, b, wanted)
    assert pairs_needed(.1, .2, power=.9) > pairs_needed(.1, .2) > pairs_needed(.1, .2, alpha=.1)

def test_power_agrees_with_simulation():
    rng = np.random.default_rng(1)
    def seen(k, m): return k + m > 0 and binomtest(k, k + m).pvalue <= .05
    for n,a,b in ((20, .05, .4), (80, .02, .12)):
        drawn = rng.multinomial(n, [a, b, 1 - a - b], size=1000)
        assert abs(np.mean([seen(k, m) for k,m,_ in drawn]) - power(n, a, b)) < .04

def test_holm_as_r_has_it():
    "p.adjust(c(.01, .04, .03, .005), 'holm') and one with ties and a cap."
    assert holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])
    assert holm([.5, .02, .02, .9]) == pytest.approx([1, .08, .08, 1]) and holm([]) == []
    with pytest.raises(ValueError): holm([.1, 1.2])

def test_users_needed_as_r_has_it():
    "power.prop.test(p1=.5, p2=.75, power=.9) gives 76.65, and p1=.1, p2=.12, power=.8 gives 3840.8."
    assert users_needed(.5, .75, power=.9) == users_needed(.75, .5, power=.9) == 77 and users_needed(.1, .12) == 3841
    with pytest.raises(ValueError): users_needed(.3, .3)
