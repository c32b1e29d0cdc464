"""Measure trl, ftcook's settings on top of it, and Unsloth side by side: the same weights, rows, rank and adapter at the start.

    python nbs/measurements/steps/rivals.py --groups ample short --unsloth folder-with-its-packages

Each run is a process of its own, and the runs of a group take turns. The first 20 steps are for the losses, ten more are timed
without a look at the loss, two more are profiled. Unsloth's packages ask for older versions of trl and datasets: put them into a
folder (`pip install --target`) that only its own processes see; without `--unsloth` they are taken from the environment."""
import argparse, json, os, sys, tempfile, time
from pathlib import Path
if 'one' in sys.argv[1:2] and json.loads(sys.argv[-1])[0] == 'unsloth': import unsloth # noqa: E402, F401 (wants to be first)
from ftcook.bench import device_name, known_rows, label, merge_rows, pinned, run_apart
from ftcook.runs import Run, run_fields

here = Path(__file__).parent
started = time.perf_counter()
libraries = (*pinned, 'liger-kernel', 'flash-attn', 'unsloth', 'unsloth-zoo', 'xformers', 'triton')
measured = ('step_s tokens_per_s step_tokens steps peak_allocated_gib peak_reserved_gib weights_gib trainable adapter_dtype '
            'launch_us kernels busy_s busy_tokens losses status note seconds').split()
key = ('gpu', 'library', 'turn', *run_fields)
learned, warm, timed, profiled = 20, 2, 10, 2 # steps whose losses are kept, left out, timed, profiled

keep_all, liger = dict(gradient_checkpointing='none'), dict(use_liger_kernel=True)
flash, packed = dict(attn_implementation='flash_attention_2'), dict(packing='bfd')
layers, graphs = dict(compiled='layers'), dict(compiled='graphs')
# In an Unsloth row: padding_free is its default, compiled its compilation of each block (which it does with padded rows only),
# and checkpoints in the CPU's memory its own kind of checkpointing.
flat, its_own = dict(packing='padding_free'), dict(gradient_checkpointing='full', activation_offloading='checkpoints')
held, varied = dict(limit_gib=12), dict(lengths='exponential-400')
long_rows = dict(per_device_train_batch_size=1, max_length=8192)

def budget(share): return dict(activation_memory_budget=share)
def batch(rows): return dict(per_device_train_batch_size=rows)
def ours(*changes): return 'trl', merged(changes)
def unsloth(*changes): return 'unsloth', merged(changes)
def merged(changes): return {k: v for change in changes for k,v in change.items()}

groups = dict( # how often: the runs, which take turns
    ample=(2, [unsloth(keep_all, layers), ours(keep_all, layers, budget(.7)), unsloth(keep_all, flat)]),
    short=(2, [unsloth(its_own, flat, held), ours(keep_all, layers, budget(.1), held),
        ours(keep_all, layers, budget(.1), batch(3), held)]),
    usual=(1, [ours(), ours(keep_all, layers, budget(.7)), ours(keep_all, liger), ours(keep_all, graphs, budget(.7)),
        unsloth(keep_all, graphs)]),
    batches=(1, [unsloth(its_own, flat, batch(8), held), unsloth(its_own, layers, held), unsloth(its_own, flat, batch(2), held),
        ours(layers, batch(8), held), unsloth(its_own, flat, batch(12), held)]),
    long=(1, [unsloth(long_rows, keep_all, flat), ours(long_rows, keep_all, layers, budget(.7)),
        unsloth(long_rows, keep_all, layers), ours(long_rows), unsloth(long_rows, its_own, flat)]),
    headline=(2, [ours(varied), ours(varied, keep_all, packed, flash, liger, batch(8))]),
    varied=(1, [unsloth(varied, keep_all, packed), ours(varied, keep_all, packed, flash, layers, budget(.7)),
        unsloth(varied, keep_all, flat), ours(varied, keep_all, packed, flash, liger), ours(varied, keep_all, liger)]))

def plan(names, **smaller):
    "Library, turn and run of everything in the groups, turn by turn."
    for name in names:
        turns, runs = groups[name]
        for turn in range(1, turns + 1):
            for library,changes in runs: yield library, turn, Run(**changes | smaller)

def folder_of(run): return Path(tempfile.gettempdir())/f'rivals-{Path(run.model).name}-{run.quantize}'

def tiny_model():
    "The folder of a configuration with two small layers."
    from transformers import MistralConfig
    folder = Path(tempfile.gettempdir())/'rivals-tiny'
    MistralConfig(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, sliding_window=None).save_pretrained(folder)
    return str(folder)

def make_model(run):
    "The weights that all sides load, quantized, and a tokenizer whose words are the token ids."
    import torch
    from ftcook.runs import random_model, word_tokenizer
    folder = folder_of(run)
    if folder.exists(): return
    torch.manual_seed(0)
    model, part = random_model(run.config, run.quantize, run.dtype), folder.with_name(f'{folder.name}-{os.getpid()}')
    model.save_pretrained(part)
    word_tokenizer(run.config.vocab_size).save_pretrained(part)
    if not folder.exists(): part.rename(folder)

def rows_of(run):
    "Token ids from the whole vocabulary, and nothing else; low ids are more frequent, so there is something to learn."
    from ftcook.runs import random_rows
    words = run.config.vocab_size
    rows = random_rows(run, learned + warm + timed + profiled + 1, words)
    def skewed(row): return dict(input_ids=[3 + int((words - 3)*((i - 3)/(words - 3))**3) for i in row['input_ids']])
    return rows.map(skewed, remove_columns=rows.column_names)

def same_adapter(model):
    "Gives the adapter the first values that every side starts from."
    import torch
    draw = torch.Generator().manual_seed(0)
    for _,p in sorted((name, p) for name,p in model.named_parameters() if 'lora_A' in name):
        p.data.copy_(torch.empty(p.shape).uniform_(-1, 1, generator=draw)/p.shape[1]**.5)

def trl_trainer(run, settings, callbacks):
    "A trainer of trl, its layers compiled where the run says so."
    from ftcook.quantization import trainable_on_cpu
    from ftcook.runs import step_trainer
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder_of(run), dtype=run.dtype, attn_implementation=run.attn_implementation,
        device_map={'': device()}, trust_remote_code=False)
    if device() == 'cpu' and run.quantize.startswith('nf4'): trainable_on_cpu(model)
    return step_trainer(run, settings.pop('output_dir'), model, rows_of(run), callbacks, **settings)

def unsloth_trainer(run, settings, callbacks):
    "A trainer as Unsloth's documentation makes one."
    from unsloth import FastLanguageModel
    from ftcook.lora import lora_config
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer
    lora, own = lora_config(r=run.r), run.activation_offloading == 'checkpoints'
    model, tokenizer = FastLanguageModel.from_pretrained(str(folder_of(run)), max_seq_length=run.max_length,
        load_in_4bit=run.quantize != 'none', dtype=None, trust_remote_code=False)
    model = FastLanguageModel.get_peft_model(model, r=run.r, lora_alpha=lora.lora_alpha, lora_dropout=0, bias='none',
        random_state=0, target_modules=[f'{name}_proj' for name in ('q', 'k', 'v', 'o', 'gate', 'up', 'down')],
        use_gradient_checkpointing='unsloth' if own else run.gradient_checkpointing == 'full')
    same = 'per_device_train_batch_size', 'gradient_accumulation_steps', 'max_length', 'optim'
    args = SFTConfig(**settings, **{name: getattr(run, name) for name in same}, bf16=device() != 'cpu', report_to='none',
        save_strategy='no', disable_tqdm=True, dataset_num_proc=1, packing=run.packing == 'bfd',
        padding_free=run.packing == 'padding_free')
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows_of(run), args=args, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer

def device():
    import torch
    return 'cuda' if torch.cuda.is_available() else 'cpu'

def watcher(found):
    "A callback that notes losses, time, tokens and memory, and the GPU's work in a few steps more."
    import torch
    from transformers import TrainerCallback
    from ftcook.memory import _peaks
    gpu = device() == 'cuda'
    def wait(): return torch.cuda.synchronize() if gpu else None
    class Watch(TrainerCallback):
        losses, counts, profile = [], [], None
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            step = self.trainer.training_step
            def counted(model, inputs, *rest):
                mask = inputs.get('attention_mask')
                self.counts.append(inputs['input_ids'].numel() if mask is None or mask.ndim != 2 else mask.sum())
                return step(model, inputs, *rest)
            self.trainer.training_step = counted
        def on_log(self, args, state, control, logs=None, **kwargs):
            if 'loss' in (logs or {}) and len(self.losses) < learned: self.losses.append(logs['loss'])
        def on_step_end(self, args, state, control, **kwargs):
            n = state.global_step
            if n == learned: state.logging_steps = 10**6
            if n == learned + warm:
                wait()
                self.start, self.first = time.perf_counter(), len(self.counts)
            if n == learned + warm + timed:
                wait()
                seconds, tokens = time.perf_counter() - self.start, float(sum(self.counts[self.first:]))
                found.update(step_s=round(seconds/timed, 4), tokens_per_s=round(tokens/seconds, 1),
                    step_tokens=round(tokens/timed, 1), steps=timed, **_peaks(),
                    losses=' '.join(f'{loss:.5f}' for loss in self.losses))
                if gpu:
                    self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                    self.profile.__enter__()
            if n == learned + warm + timed + profiled and self.profile:
                busy(self.profile, float(sum(self.counts[-profiled:])), found)
    return Watch()

def busy(profile, tokens, found):
    "How long the GPU worked in a profiled step, for how many tokens, and what it worked on."
    import torch
    from compiled import look # looks at two steps as well
    torch.cuda.synchronize()
    profile.__exit__(None, None, None)
    seen = look(profile)
    found.update(kernels=seen['kernels'], busy_s=seen['busy_s'], busy_tokens=round(tokens/profiled, 1))

def measure(library, run):
    "One run, in this process."
    start, found = time.perf_counter(), {}
    import torch
    from ftcook.memory import GiB, _memory_limit, _peaks, launch_us
    from ftcook.runs import is_oom
    try:
        with tempfile.TemporaryDirectory() as folder, _memory_limit(run.limit_gib):
            watch = watcher(found)
            settings = dict(output_dir=folder, max_steps=learned + warm + timed + profiled, logging_steps=1, learning_rate=2e-4,
                lr_scheduler_type='constant', seed=0)
            watch.trainer = trainer = dict(trl=trl_trainer, unsloth=unsloth_trainer)[library](run, settings, [watch])
            same_adapter(trainer.model)
            trained = [p for p in trainer.model.parameters() if p.requires_grad]
            found |= dict(trainable=sum(p.numel() for p in trained), adapter_dtype=str(trained[0].dtype).removeprefix('torch.'),
                launch_us=round(launch_us(), 1))
            if device() == 'cuda':
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                found['weights_gib'] = round(torch.cuda.memory_allocated()/GiB, 3)
            trainer.train()
            found |= dict(status='ok', note='')
    except Exception as e:
        import traceback
        traceback.print_exc(limit=-6, file=sys.stdout)
        said = f'{type(e).__name__}: {e}'.split('\n')[0][:200]
        found |= _peaks() | (dict(status='oom') if is_oom(e) else dict(status='error', note=said))
    return found | dict(seconds=round(time.perf_counter() - start, 1))

def keep(path, library, turn, run, found):
    row = dict(gpu=device_name(), library=library, turn=turn) | run.to_dict() | dict.fromkeys(measured, '')
    row |= found | label(libraries)
    merge_rows(path, [row], key)
    told = ' '.join(f'{k}={v}' for k,v in run.changes().items())
    print(f"{row['seconds'] or 0:>5} s  {library} {turn} {told}: {row['status']} {row['tokens_per_s']} tokens/s, "
        f"{row['peak_allocated_gib']} GiB, GPU busy {row['busy_s']} s of {row['step_s']} {row['note']}", flush=True)

def environment(library, run, folder):
    "Variables of the process: Unsloth's own settings are told this way."
    env = dict(os.environ, HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1', HF_DATASETS_OFFLINE='1', UNSLOTH_DISABLE_STATISTICS='1')
    if library != 'unsloth': return env
    if folder: env['PYTHONPATH'] = os.pathsep.join([str(folder), *filter(None, [env.get('PYTHONPATH')])])
    env['UNSLOTH_COMPILE_LOCATION'] = str(Path(tempfile.gettempdir())/'unsloth_compiled_cache')
    asked = dict(UNSLOTH_BLOCK_COMPILE_LEGACY=run.compiled != 'none', UNSLOTH_BLOCK_CUDAGRAPHS=run.compiled == 'graphs')
    return env | {name: str(int(value)) for name,value in asked.items()}

def run_one(what, turn, run, args, seconds):
    "A process of its own: makes the model, or measures a run and keeps its row. Why it failed, if it did."
    command = [sys.executable, __file__, 'one', str(args.out), json.dumps([what, turn, run.to_dict()])]
    return run_apart(command, seconds, env=environment(what, run, args.unsloth))

def child(out, job):
    "What a process of its own does."
    library, turn, run = job
    if library == 'make': make_model(Run(**run))
    else: keep(out, library, turn, Run(**run), measure(library, Run(**run)))

if __name__ == '__main__':
    if 'one' in sys.argv[1:2]: sys.exit(child(Path(sys.argv[2]), json.loads(sys.argv[3])))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--groups', nargs='+', default=[*groups], choices=[*groups])
    parser.add_argument('--out', type=Path, default=here/'rivals.csv')
    parser.add_argument('--unsloth', type=Path, help="folder with Unsloth's packages")
    parser.add_argument('--libraries', nargs='+', default=['trl', 'unsloth'], choices=['trl', 'unsloth'])
    parser.add_argument('--budget', type=float, default=540., help='no run starts later than this many seconds')
    parser.add_argument('--longest', type=float, default=200., help='seconds after which a run is given up')
    parser.add_argument('--resume', action='store_true', help='leave out what the table already has')
    parser.add_argument('--tiny', action='store_true', help='a small model and short rows, to try the script out')
    args = parser.parse_args()
    smaller = dict(model=tiny_model(), per_device_train_batch_size=2, max_length=64, limit_gib=0) if args.tiny else {}
    jobs = [job for job in plan(args.groups, **smaller) if job[0] in args.libraries]
    there = known_rows(args.out, key[1:]) if args.resume else set()
    for library,turn,run in jobs:
        left = args.budget - (time.perf_counter() - started)
        if (library, str(turn), *run.key()) in there: continue
        if left < 0:
            print(f'not started: {library} {turn} {run}', flush=True)
            continue
        if not folder_of(run).exists():
            if why := run_one('make', turn, run, args, args.longest): sys.exit(f'the model cannot be made: {why}')
        why = run_one(library, turn, run, args, min(args.longest, left + 60))
        if why: keep(args.out, library, turn, run, dict(status='error', note=why, seconds=''))
