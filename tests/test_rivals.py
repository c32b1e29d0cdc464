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
    "Ours was measured on another card of the same kind, not in turns."
    rival, _ = max(settings('unsloth', '12'))
    held = [r for r in read_table(measurement('steps/compiled.csv')) if r['limit_gib'] == '12' and r['status'] == 'ok']
    assert max(float(r['tokens_per_s']) for r in held if float(r['peak_reserved_gib']) <= 12) >= rival

def losses(row): return [float(loss) for loss in row['losses'].split()]
def distance(a, b): return mean([abs(x - y) for x,y in zip(losses(a), losses(b), strict=True)])

def test_compiled_layers_learn_as_unsloth_does():
    found = [r for r in rows if r['losses'] and r['per_device_train_batch_size'] == '4']
    assert all(len(losses(r)) == 20 for r in found) and {'trl', 'unsloth'} == {r['library'] for r in found}
    assert max(distance(a, b) for a in found for b in found) <= 1e-3
