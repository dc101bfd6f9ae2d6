"""vLLM's offline names (`LLM`, `LoRARequest`, `PoolerConfig`) over `Model`: a script
ports by its import line.

Nothing that `load` needs belongs here.
It may import every other room of the runtime but commands.
"""
