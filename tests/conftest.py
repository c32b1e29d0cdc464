import os
from pathlib import Path
import pytest
from ftcook.runtime import default_profile, run_folder

os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
root = Path(__file__).parent.parent

@pytest.fixture(scope='session')
def profile(): return default_profile() if os.environ.get('FTCOOK_PROFILE') else 'cpu'

@pytest.fixture(scope='session')
def run_dir(profile):
    os.chdir(root)
    return root/'runs'/profile
