"""The search of lesson 08b: studies that go on, runs that are given up, and what chance would have found."""
import itertools, statistics
from types import SimpleNamespace
import pytest
from ftcook.search import PruneCallback, expected_best, go_on, open_study, search_space

optuna = pytest.importorskip('optuna')
optuna.logging.set_verbosity(optuna.logging.ERROR)

def rate(trial): return search_space(trial)['learning_rate']

def tried(study): return [t.params['learning_rate'] for t in study.trials if t.state.name == 'COMPLETE']

@pytest.mark.parametrize('random', [True, False])
def test_a_study_goes_on_and_repeats_nothing(tmp_path, random):
    "The seed of the sampler moves on: else a restart would draw the same settings again."
    for trials in (3, 6, 6): go_on(open_study(tmp_path/'study.log', random=random), rate, trials)
    found = tried(open_study(tmp_path/'study.log', random=random))
    assert len(found) == len(set(found)) == 6

def test_a_killed_trial_is_closed_and_made_again(tmp_path):
    study = open_study(tmp_path/'study.log')
    killed = study.ask()
    asked = rate(killed)
    assert [t.state.name for t in open_study(tmp_path/'study.log', alone=False).trials] == ['RUNNING']
    again = open_study(tmp_path/'study.log')
    go_on(again, rate, 2)
    assert asked in tried(again) and [t.state.name for t in again.trials] == ['FAIL', 'COMPLETE', 'COMPLETE']

def test_a_poor_run_is_given_up(tmp_path):
    "Four good trials first; the fifth is worse than all of them at its first evaluation."
    study = open_study(tmp_path/'study.log')
    def objective(trial):
        callback = PruneCallback(trial)
        loss = 9. if trial.number == 4 else 1.
        for step in (2, 4): callback.on_evaluate(None, SimpleNamespace(global_step=step), None, metrics=dict(eval_loss=loss))
        return loss
    go_on(study, objective, 5)
    last = study.trials[-1]
    assert last.state.name == 'PRUNED' and list(last.intermediate_values) == [2]

def test_the_best_of_k_is_the_mean_over_all_choices():
    values = [.5, .1, .9, .3, .3]
    for k in range(1, 6):
        assert expected_best(values, k) == pytest.approx(statistics.mean(map(min, itertools.combinations(values, k))))
    with pytest.raises(ValueError, match='use 1 to 5'): expected_best(values, 6)
