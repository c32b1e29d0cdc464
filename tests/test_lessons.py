"""Every lesson runs headlessly, in order, and what it measured is what the book claims."""
import json
import pytest
from ftcook.cli import lesson_notebooks, run_lesson
from conftest import root

lessons = lesson_notebooks(root)
solutions = lesson_notebooks(root, solutions=True)

def between(low, high): return lambda v: low <= v <= high
def is_(wanted): return lambda v: v == wanted

# Training takes under 5 minutes on two free cores (nbs/measurements/seeds.csv); the bound leaves room for a machine that is shared.
# lesson -> profile ('both', 'cpu' or 'gpu') -> metric -> what must hold
claims = {
    '00_setup': dict(both=dict(parameters_million=between(134, 136), capital_right=is_(True), base_right=is_(0), tokens_per_s=lambda v: v > 0)),
    '01_data': dict(both=dict(rows_in=is_(2012), rows_kept=is_(503), rejected=lambda v: sum(v.values()) == 1509, check_mb_per_s=lambda v: v >= 30,
        taken_silently=lambda v: v['check_file'] == 0, pii_recall=lambda v: v['presidio'] > .75 and v['regexes'] < .25, minhash_recall=between(.9, 1),
        naive_leak_share=between(.8, 1), trained_share=between(.3, .6))),
    '02_quantization': dict(both=dict(bits_single=between(4.499, 4.501), bits_double=between(4.126, 4.128), bits_measured=between(4.126, 4.128), bytes_as_computed=is_(True),
        levels_equal=is_(True), double_restored_equal=is_(True), rms_error=lambda v: v['NF4'] < v['INT4'] < v['FP4'] and v['NF4'] < .10,
        outlier_error=lambda v: v['one block, one outlier'] > .95 and v['blocks of 64, one outlier'] < .25), cpu=dict(nf4_equal=lambda v: v == 18, perplexity=lambda v: 28 < v['none'] < 32 and v['nf4'] < v['fp4'])),
    '03_lora': dict(both=dict(share_mistral_7b=between(.0055, .006), trainable_mistral_7b=is_(41_943_040), adapter_bytes=lambda v: v > 1e6, base_loss=lambda v: v > 1,
        full_loss=lambda v: v < .5, gain_of_16_directions=between(.85, 1.01), movement_correlation=between(-1, -.7), seed_noise=between(0, .1),
        losses=lambda v: max(v.values()) < .8, where=lambda v: v['all linear, r=16'] < v['attention, r=42'], rank_alpha=lambda v: v['16/128'] < v['16/32'] < v['1/2']), cpu=dict(layer_error=between(0, 1e-5), model_error=between(0, 1e-3), start_error=between(0, 1e-5),
        adapter_bytes=is_(19_593_064), adapter_bytes_predicted=is_(19_593_064))),
    '04_sft': dict(both=dict(exact_match_before=between(0, .10), accumulation_error=lambda v: v < .05, resume_difference=lambda v: v <= 1e-3),
                   cpu=dict(exact_match_after=between(.75, 1), requests=lambda v: v >= 60, train_minutes=between(0, 12), resume_difference=is_(0)),
                   gpu=dict(exact_match_after=between(.9, 1), requests=lambda v: v >= 60)),
    '05_inference': dict(both=dict(exact_match_trained=between(.5, 1), served_identical=is_(1), adapters_switched=lambda v: bool(v), constrained_legal=is_(1),
        left_padding=between(.4, 1), right_changed=lambda v: v > 0)),
    '06_dpo': dict(both=dict(invention_rate_before=between(.9, 1), longer_wins_mistakes=between(0, .1), longer_wins=between(.35, .65), chosen_fell=lambda v: v < 0),
        cpu=dict(loss_error=between(0, 1e-5), first_loss=between(.693, .6933), pairs=between(64, 80)), gpu=dict(invention_rate_after=between(0, .1))),
    '07_evaluation': dict(both=dict(leaked=is_(0), planted_found=is_(3), never_loaded=is_(True), faults_counted=is_(12), program_agreement=is_(1), judge_agreement=between(0, .5),
        judge_first_position=between(.8, 1), needed=lambda v: v['0.02'] > 10*v['0.1'], careful_passed=is_(False)),
        cpu=dict(exact_match=between(.7, 1), moved_change=between(-.5, -.05), moved_p=between(0, .05), gained_by_luck=between(.03, .3), everyday_before=between(.7, 1),
        everyday_after=between(.6, 1), bits_before=between(1.1, 1.4), judge_failed_attempts=lambda v: v > 0, gate_passed=is_(True))),
    '08_methods': dict(both=dict(rules_reached=is_(17), rules=is_(17), grpo_gradient_from_base=is_(0), moved_from_base=is_(0), methods=lambda v: v >= 8, methods_failed=is_({}),
        memory_measured_over_predicted=between(.5, 1.5), exact_match=lambda v: v['base'] <= .10 and v['prompt'] <= .30 and min(v['full'], v['lora'], v['qlora']) >= .5,
        forgetting=lambda v: v['base'] == 1 and v['ia3'] < v['lora']),
        cpu=dict(reward_mean=lambda v: min(v) > .5, grpo_gradient=lambda v: max(v) > 0)),
    '10_memory': dict(both=dict(runs=lambda v: v >= 100, gain_80_gib=lambda v: v >= 1.7, gain_12_gib=lambda v: v >= 1.25, gain_varied=lambda v: v >= 2.5, error_mean=between(0, .02), time_error=between(0, .12),
        frontier=lambda v: len(v) >= 3, switch_peak=lambda v: v['the defaults'] < v['every 2nd layer checkpointed'] < v['no checkpointing'] and v['batch 1, accumulation 4'] < .6)),
    '09_flash_attention': dict(both=dict(forward_error=between(0, 1e-12), gradient_error=between(0, 1e-12), mask_error=between(0, 1e-5), entry_bytes=between(5.9, 6.1), mask_cost=lambda v: v > 1.1,
        kept_slopes=lambda v: 1.9 < v['standard'] <= 2 and .99 < v['tiled'] < 1.01, loss_difference=lambda v: max(v.values()) < 1e-5, gradient_difference=lambda v: max(v.values()) < 1e-4,
        live_slopes=lambda v: v['eager']['kept_mib'] > 1.7 and v['sdpa_flash']['kept_mib'] < 1.1, gpu_slopes=lambda v: v['eager']['kept_mib'] > 1.9 and v['flash_attention_2']['kept_mib'] < 1.05 and v['flash_attention_2']['ms'] > 1.8,
        kernel_gain=lambda v: min(g['flash_attention_2'] for g in v.values()) > 4, step_gain=lambda v: 1 < v['512']['flash_attention_2'] < 1.5 and all(g['flash_attention_2'] < 4 for g in v.values() if g),
        checkpointed_gain=lambda v: v['8192']['flash_attention_2'] > 3, mask_price=lambda v: v['sdpa, one padding token, 16384'] < .7 < v['flash_attention_2, one padding token, 16384'] and v['flash_attention_2, window 4096, 16384'] > 1,
        share_of_ceiling=lambda v: v['eager'] < .1 and .3 < v['flash_attention_2'] < 1, traffic_ratio=lambda v: all(1 < r < 2 for r in v.values()), prediction_error=between(0, .05),
        masks_made=is_({'no padding': False, 'an attention_mask of ones': False, 'one token of padding': True, 'two texts packed in each row': True})), cpu=dict(choice=is_('sdpa'))),
    '12_cost': dict(both=dict(runs=lambda v: v >= 80, architectures=lambda v: v >= 6, holdout_runs=lambda v: v >= 20, trace_holdout=between(0, .01), formula_holdout=between(0, .04), reserved_holdout=between(0, .05), step_holdout=between(0, .12),
        holdout_worst=lambda v: v['trace'] <= .03 and v['formula'] <= .10, limits_checked=lambda v: v >= 20, near_limit=lambda v: v >= 6, limits_wrong=between(0, 2), edges=lambda v: v >= 10, edges_wrong=between(0, 1), formula_trace=between(0, .02), cpu_error=between(0, .03), bits_saved=is_(.373), full_7b_gib=between(52, 56), qlora_7b_gib=between(7, 14.9), cheaper=between(1, 10),
        spot_error=between(0, .02), rule_of_thumb=lambda v: v > .2), gpu=dict(measured_afresh=is_(2))),
    '11_troubleshooting': dict(both=dict(named_first=between(.95, 1), cases=lambda v: v >= 40, healthy=lambda v: v >= 15, false_alarms=is_(0), fresh_right=between(.95, 1), overhead=between(0, .01), live_steps=between(0, 10),
        folder_seconds=between(0, 2), nan_whole=is_(1), survived=is_('batch 1, accumulated'), gpu_cures=lambda v: len(set(v.values())) >= 3,
        runs=lambda v: v['healthy'] == 'none' and v['rate times 10'] == 'lr_too_high' and v['rate times a tenth'] == 'lr_too_low' and 'none' not in [found for name,found in v.items() if name != 'healthy'])),
}

@pytest.mark.timeout(1500)
@pytest.mark.parametrize('path', lessons, ids=lambda p: p.stem)
def test_lesson(path, profile, run_dir):
    result = run_lesson(path, run_dir, profile, progress=False)
    assert result['error'] is None
    expected = claims[path.stem].get('both', {}) | claims[path.stem].get(profile, {})
    assert expected, f'{path.stem} records no metric that is asserted'
    wrong = {k: result['metrics'].get(k) for k,holds in expected.items() if k not in result['metrics'] or not holds(result['metrics'][k])}
    assert not wrong

@pytest.mark.timeout(900)
@pytest.mark.parametrize('path', solutions, ids=lambda p: p.stem)
def test_solution(path, profile, run_dir):
    assert run_lesson(path, run_dir/'solutions', profile, progress=False, run_dir=run_dir)['error'] is None

def test_every_lesson_has_solutions_and_claims():
    assert {p.stem for p in solutions} == {p.stem for p in lessons} == set(claims)

@pytest.mark.parametrize('path', lessons + solutions, ids=lambda p: f'{p.parent.name}-{p.stem}')
def test_stored_outputs_are_clean(path):
    "What the site shows: real outputs, no error, no warning, no path of the machine they ran on."
    cells = [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    outputs = [o for c in cells for o in c['outputs']]
    assert outputs
    text = json.dumps(outputs)
    assert not [o for o in outputs if o['output_type'] == 'error']
    for unwanted in ('Warning:', '/home/', '/root/', '/tmp/', 'site-packages'): assert unwanted not in text, unwanted
