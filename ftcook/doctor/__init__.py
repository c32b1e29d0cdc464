"""What went wrong, how sure that is, and what to do. A face: each part has a lesson and a module of its own."""
from .errors import * # noqa: F403
from .curves import * # noqa: F403
from .training import * # noqa: F403
from .inputs import * # noqa: F403
from .installed import * # noqa: F403
from .source import * # noqa: F403
from .trainings import * # noqa: F403
from .scripts import * # noqa: F403
from .batch import * # noqa: F403
from .launch import * # noqa: F403
from .diagnose import * # noqa: F403

def __getattr__(name): # the callback needs transformers, whose import takes seconds
    if name != 'DoctorCallback': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .callback import DoctorCallback
    return DoctorCallback
