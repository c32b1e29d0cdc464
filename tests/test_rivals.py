"The bars of rivals.csv: compiled layers on top of trl against Unsloth at its best, on one card, and the losses of both."
from collections import defaultdict
from ftcook.bench import measurement, read_table

table = read_table(measurement('steps/rivals.csv'))
rows = [r for r in table if r['status'] == 'ok' and r['lengths'] == 'fixed' and r['max_length'] == '2048']
chosen = ('per_device_train_batch_size', 'gradient_checkpointing', 'packing', 'compiled', 'activation_memory_budget')

def mean(values): return sum(values)/len(values)

def settings(library, limit, compiled=None):
    "Tokens per second over the turns, and the peak, of each setting that was measured."
    found = defaultdict(list)
    for r in rows:
        right = compiled is None or (r['compiled'] != 'none') == compiled
        if right and (r['library'], r['limit_gib']) == (library, limit): found[tuple(r[k] for k in chosen)].append(r)
    def numbers(rows, column): return [float(r[column]) for r in rows]
    return [(mean(numbers(rs, 'tokens_per_s')), max(numbers(rs, 'peak_allocated_gib'))) for rs in found.values()]

def test_without_a_limit_as_fast_as_unsloth_in_no_more_memory():
    rival, room = max(settings('unsloth', '0'))
    assert any(speed >= rival and peak <= room for speed,peak in settings('trl', '0', compiled=True)), (rival, room)

def test_in_12_gib_as_fast_as_unsloth():
    rival, _ = max(settings('unsloth', '12'))
    assert any(speed >= rival and peak <= 12 for speed,peak in settings('trl', '12', compiled=True)), rival

def losses(row): return [float(loss) for loss in row['losses'].split()]
def distance(a, b): return mean([abs(x - y) for x,y in zip(losses(a), losses(b), strict=True)])

def whole(library): return [r for r in rows if r['library'] == library and r['per_device_train_batch_size'] == '4']

def test_each_row_has_20_losses(): assert all(len(losses(r)) == 20 for r in rows)

def test_compiled_layers_learn_as_trl_does():
    usual, = [r for r in whole('trl') if r['compiled'] == 'none' and r['gradient_checkpointing'] == 'full']
    ours = [r for r in whole('trl') if r['compiled'] != 'none']
    assert ours and max(distance(usual, r) for r in ours) <= 1e-3
