"""TurboSparse: dReLU sparsification of Mistral and Mixtral, from corpus to measured speedup.

Importing this package is light. `import turbosparse.model` registers the model classes with
transformers (about ten seconds).
"""

from importlib.metadata import version

__version__ = version("turbosparse")
