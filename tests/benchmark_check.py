"""Speed and memory of `ftcook check`: makes a JSONL file, checks it on one core in a process of its own, prints JSON.

    python tests/benchmark_check.py --megabytes 1000
    python tests/benchmark_check.py --megabytes 200 --row-bytes 250 --broken --fix
"""
import argparse, json, os, random, resource, subprocess, sys, tempfile, time
from pathlib import Path

def make(path, megabytes, row_bytes, broken):
    "A JSONL file of about `megabytes` (10**6 bytes), its rows around `row_bytes` long."
    rng = random.Random(0)
    words = [''.join(rng.choices('abcdefghijklmnopqrstuvwxyzéß', k=rng.randint(2, 9))) for _ in range(3000)]
    def text(n):
        return ' '.join(rng.choices(words, k=max(1, rng.randint(n//2, n*3//2)))) + rng.choice(['.', ': "yes"', '\n* {"a": 1}'])
    n = max(1, (row_bytes - 150)//15)
    def row(i):
        messages = [('system', text(5)), ('user', text(n)), ('user' if broken and i % 3 == 0 else 'assistant', text(n))]
        return json.dumps(dict(messages=[dict(role=r, content=c) for r,c in messages], id=i), ensure_ascii=i % 2 == 0)
    block = '\n'.join(row(i) for i in range(3000)).encode() + b'\n'
    with open(path, 'wb') as f:
        for _ in range(max(1, round(megabytes*1e6/len(block)))): f.write(block)

def check(path, fix):
    "Run inside the measured process."
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from ftcook.data import check_file
    cpu = time.process_time()
    report = check_file(path, fix=fix)
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)
    megabytes = report.bytes/1e6
    return dict(megabytes=round(megabytes, 1), rows=report.rows, rejected=report.rejected, seconds=round(report.seconds, 2),
                megabytes_per_s=round(megabytes/report.seconds, 1), megabytes_per_cpu_s=round(megabytes/cpu, 1),
                peak_mib=round(peak, 1))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--megabytes', type=float, default=200)
    p.add_argument('--row-bytes', type=int, default=1000, help='typical length of a row')
    p.add_argument('--broken', action='store_true', help='make every third row a bad one')
    p.add_argument('--fix', action='store_true', help='write the good and the bad rows too')
    p.add_argument('--step', nargs=2, metavar=('NAME', 'FILE'), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.step:
        name, path = args.step
        if name == 'make': make(path, args.megabytes, args.row_bytes, args.broken)
        else: print(json.dumps(check(path, fix=f'{path}.clean' if args.fix else None)))
        return
    with tempfile.TemporaryDirectory() as folder: # this process stays small, since a child's peak starts at its parent's
        for name in ('make', 'check'):
            subprocess.run([sys.executable, *sys.argv, '--step', name, Path(folder)/'data.jsonl'], check=True)

if __name__ == '__main__': main()
