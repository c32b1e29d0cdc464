"""Training data: get, check, scrub, clean, split, audit, and see what the loss counts. Each part has a lesson and a module."""
from . import audit, check, clean, kinds, labels, mask, pii, shapes, sourcing, splits
from .audit import *  # noqa: F403
from .check import *  # noqa: F403
from .clean import *  # noqa: F403
from .kinds import *  # noqa: F403
from .labels import *  # noqa: F403
from .mask import *  # noqa: F403
from .pii import *  # noqa: F403
from .shapes import *  # noqa: F403
from .sourcing import *  # noqa: F403
from .splits import *  # noqa: F403

__all__ = (check.__all__ + shapes.__all__ + kinds.__all__ + pii.__all__ + clean.__all__ + splits.__all__ + mask.__all__
           + sourcing.__all__ + labels.__all__ + audit.__all__)
