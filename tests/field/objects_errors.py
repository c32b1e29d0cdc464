"The exceptions of the field: the last error of a log as an object, or what the system raises."
import errno, os
from pathlib import Path

def last_error(log):
    "The exception that a log ends in, as an object of a class of that name."
    text = log.read_text(encoding='utf-8').rpartition('Traceback (most recent call last):')[2]
    lines = text.splitlines()
    first = next(i for i,line in enumerate(lines) if line.strip() and not line.startswith(' '))
    kind, _, said = '\n'.join(lines[first:]).partition(': ')
    name = kind.rpartition('.')[2]
    base = getattr(__builtins__, name, None) if not isinstance(__builtins__, dict) else __builtins__.get(name)
    return (base or type(name, (Exception,), {}))(said.strip())

def c36d(): return OSError(errno.EMFILE, os.strerror(errno.EMFILE))

def __getattr__(name):
    "Of a case that ends in x: the error of the log without it."
    log = Path(__file__).parent/'cases'/name.removesuffix('x')/'train.log'
    if name.endswith('x') and log.exists(): return lambda: last_error(log)
    raise AttributeError(name)
