"""Training data: check, clean, split, and see what the loss counts. A face: each part has a lesson and a module of its own."""
from .check import *
from .clean import *
from .splits import *
from .mask import *
