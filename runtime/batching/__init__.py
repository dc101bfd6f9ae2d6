"""Which items run together, and the thread that runs them: the plan, the queue of all callers, the worker.

What a graph's rows mean for a task does not belong here.
It may import errors, progress, cancellation, artifact, inputs, inputs.media and engines.
"""
