"""Models inside other people's libraries, one module for each library: LangChain, LlamaIndex, Haystack,
Chroma, Qdrant. Importing a module imports its library, which an extra of that name installs; Triton's Python
backend brings its own.

What a model computes does not belong here, only how a library asks for it and is given it.
It may import answers, artifact, batching, engines, errors, loader and options; no other room may import it.
"""
