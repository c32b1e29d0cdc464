"""Training data: check, scrub, clean, split, see what the loss counts. A face: each part has a lesson and a module of its own."""
from . import check, clean, mask, pii, splits
from .check import *  # noqa: F403
from .clean import *  # noqa: F403
from .mask import *  # noqa: F403
from .pii import *  # noqa: F403
from .splits import *  # noqa: F403

__all__ = check.__all__ + pii.__all__ + clean.__all__ + splits.__all__ + mask.__all__
