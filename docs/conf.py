"""Settings of the documentation; nothing is fetched while it is built."""

import sys
from pathlib import Path

import promptmm_pyg

sys.path.insert(0, str(Path(__file__).parent / '_ext'))

project = 'promptmm_pyg'
author = 'The promptmm_pyg developers'
copyright = author
version = release = promptmm_pyg.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'mathml',
    'public_names',
]
exclude_patterns = ['_build']

html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['site.css']
html_title = 'promptmm_pyg'
html_math_renderer = 'mathml'

myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 4
suppress_warnings = ['myst.header']  # Sections of the README start at their own level.

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ['Shapes']
napoleon_use_ivar = True  # Properties are documented by themselves.
autodoc_typehints = 'signature'
autodoc_member_order = 'bysource'
autodoc_inherit_docstrings = False
autosummary_generate = False

nitpicky = True
# Names of other projects, which are not looked up, and types that are not offered.
nitpick_ignore_regex = [
    (
        r'py:.*',
        r'(collections|datetime|fastapi|np|numpy|optuna|pa|pathlib|pd|torch|torch_geometric)\..*',
    ),
    (
        r'py:class',
        r'Axes|FastAPI|Figure|HeteroData|NumpyArray|Tensor|(dict|tuple)\[(str|~typing).*',
    ),
    (r'py:class', r'promptmm_pyg\.(models\._|benchmark\.|search_space\.).*|Dataset'),
    (r'py:class', r'promptmm_pyg\.(_distributed|report\.(content|charts))\..*'),
    (r'py:class', r'promptmm_pyg\..*\.([A-Z]|_Graphs)'),
    # Types of private modules.
    (r'py:class', r'promptmm_pyg\.(\w+\.)*_[a-z]\w*\..*'),
    (r'py:obj', r'typing\.Literal\[.*'),
    (r'py:meth', r'forward'),
    (r'py:attr', r'feature_mapper'),
    (r'py:func', r'save_prompt|save_targets'),
]
